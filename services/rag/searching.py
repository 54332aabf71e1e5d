"""The read side: candidates by words and by meaning, of one user, within a scope, in one snapshot.

Words are ranked by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; idf with the
one added that Lucene has, so that it is never negative) with numbers of the searched scope, not of all that is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from psycopg.types.json import Jsonb

from qingyu_ai import tracing
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.settings import Rag
from qingyu_ai.tracing import Kind, names

from .database import Connection, Database
from .faults import check_pairs, check_text, refuse
from .frequencies import Frequencies
from .ranking import K1, B, Statistics, bm25
from .store import LONGEST_ID, STANDING, Standing
from .stored import LONGEST_TERM, Model, PieceKey, Vector, unit

SEARCH = {names.DB_SYSTEM: "postgresql", names.DB_OPERATION: "SELECT", names.DB_SUMMARY: "search rag.pieces"}
"""Of the span of a view."""

MOST_TERMS = 64
"""Of a query's terms, the rarest that count in the final ranking of candidates."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which documents of the user are searched. Empty: all."""

    project_id: str = ""
    content_types: Sequence[str] = ()
    filters: Mapping[str, str] = field(default_factory=dict)
    projects: Sequence[str] | None = None
    """The only ones that are open to the caller, whatever is asked for; None: all."""

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.project_id or self.content_types or self.filters) and self.projects is None

    def check(self, own: Rag) -> None:
        """Refuse what can be in no document.

        Raises:
            Invalid: each violation names the field.
        """
        found = check_text("project_id", self.project_id, LONGEST_ID)
        for i, kind in enumerate(self.content_types):
            found += check_text(f"content_types[{i}]", kind, LONGEST_ID)
        refuse([*found, *check_pairs("options.filters", self.filters, own.metadata_bytes)])

    @property
    def where(self) -> str:
        """The condition on `d`, a row of `rag.documents`. It holds no text of the caller, only names of parameters."""
        parts = ["d.user_id = %(user)s"]
        parts += ["d.project_id = %(project)s"] if self.project_id else []
        parts += ["d.project_id = ANY(%(projects)s)"] if self.projects is not None else []
        parts += ["d.content_type = ANY(%(kinds)s)"] if self.content_types else []
        parts += ["d.metadata @> %(filters)s"] if self.filters else []
        return " AND ".join(parts)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal scopes."""
        open_ = None if self.projects is None else tuple(sorted(set(self.projects)))
        return self.project_id, open_, tuple(sorted(set(self.content_types))), tuple(sorted(self.filters.items()))

    @property
    def facts(self) -> dict[str, Any]:
        """The parameters."""
        return {
            "project": self.project_id,
            "projects": None if self.projects is None else list(self.projects),
            "kinds": list(self.content_types),
            "filters": Jsonb(dict(self.filters)),
        }


def by_rarity(statistics: Statistics) -> list[str]:
    """The terms of the query that are there, the rarest first: those that count, if there are too many."""
    return sorted(statistics.df, key=lambda term: (statistics.df[term], term))[:MOST_TERMS]


def query_weights(terms: Sequence[str], statistics: Statistics) -> dict[str, float]:
    """The terms of a query that count, also those that are nowhere, each with what it tells."""
    nowhere = (term[:LONGEST_TERM] for term in terms if term[:LONGEST_TERM] not in statistics.df)
    return statistics.weights(dict.fromkeys([*nowhere, *by_rarity(statistics)]))


@dataclass(frozen=True, slots=True)
class Worded:
    """A piece that holds words of the query."""

    key: PieceKey
    score: float
    """BM25; higher is nearer; no upper bound."""
    terms: int
    """How many the piece has."""
    times: Mapping[str, int]
    """How often it has each term of the query."""


@dataclass(frozen=True, slots=True)
class ByWords:
    """What was found by words, the best first."""

    pieces: list[Worded]
    total: int
    """Pieces that hold one of the words that were looked up; of a share, those that hold so much by these words alone."""
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Near:
    """A piece that is near the query's vector."""

    key: PieceKey
    similarity: float
    """Cosine, from -1 to 1."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A piece with what is known of its document."""

    key: PieceKey
    document_id: str
    project_id: str
    content_type: str
    metadata: dict[str, str]
    start: int
    end: int
    text: str
    pieces: int
    """That its document has."""


class Reader:
    """Opens views.

    Args:
        own: the limits.
    """

    def __init__(self, database: Database, own: Rag) -> None:
        self._database = database
        self._own = own
        self._frequencies = Frequencies()

    @asynccontextmanager
    async def view(self, user: str, scope: Scope, deadline: Deadline) -> AsyncIterator[View]:
        """Open a view: all that is read through it is of one moment. It holds a connection; ask no model meanwhile.

        Raises:
            Invalid: the scope can hold nothing.
            DatabaseDown, Expired: see `faults`.
        """
        scope.check(self._own)
        with tracing.span("search rag.pieces", Kind.CLIENT, SEARCH):
            async with self._database.tenant(user, deadline, snapshot=True) as connection:
                yield View(connection, user, scope, self._own.candidate_postings, self._frequencies)


class View:
    """See `Reader.view`."""

    def __init__(self, connection: Connection, user: str, scope: Scope, budget: int, frequencies: Frequencies) -> None:
        self._connection = connection
        self._scope = scope
        self._budget = budget
        self._frequencies = frequencies
        self._facts = {"user": user, **scope.facts}

    async def standing(self) -> Standing:
        """Whose vectors are searched, and the dictionary."""
        row = (await self._rows(STANDING, {}))[0]
        return Standing(row[0], tuple(row[1]))

    async def by_words(self, terms: Sequence[str], limit: int, share: float = 0.0) -> ByWords:
        """Find the pieces that hold words of the query, ranked.

        The rarest terms are looked up, as many as have `candidate_postings` occurrences together, at least one: they decide the
        ranking, and a word that is in every second piece costs as much as all others. The best of what they find are then
        ranked by all terms.

        Args:
            share: of the query, that a piece must hold of the words that are looked up to be counted (`ByWords.total`).
        """
        statistics = await self.statistics(terms)
        rarest = by_rarity(statistics)
        if not rarest or limit < 1:
            return ByWords([], 0, statistics)
        upto = accumulate(statistics.df[term] for term in rarest)
        rare = [term for n, (term, sum_) in enumerate(zip(rarest, upto, strict=True)) if not n or sum_ <= self._budget]
        enough = share * sum(query_weights(terms, statistics).values())
        times, lengths, total = await self._best(rare, statistics, limit, enough)
        for key, also in (await self.held(list(times), [term for term in rarest if term not in set(rare)])).items():
            times[key].update(also)
        found = [Worded(key, bm25(held, lengths[key], statistics), lengths[key], held) for key, held in times.items()]
        return ByWords(sorted(found, key=lambda one: (-one.score, one.key)), total, statistics)

    async def by_vector(self, model: Model, vector: Vector, limit: int) -> list[Near]:
        """Find the pieces whose vectors are nearest, the nearest first, by looking at all of the scope: nothing is missed."""
        scope, joined = self._within("v")
        query = f"""
            {scope} SELECT v.document, v.piece, -(v.embedding <#> %(vector)s::vector) FROM rag.vectors v {joined}
            WHERE v.user_id = %(user)s AND v.model = %(model)s
            ORDER BY v.embedding <#> %(vector)s::vector, v.document, v.piece LIMIT %(limit)s"""
        facts = {"model": model.key, "vector": unit(vector, model.dimension), "limit": limit}
        rows = await self._rows(query, facts)
        return [Near(PieceKey(document, piece), float(similarity)) for document, piece, similarity in rows]

    async def show(self, keys: Sequence[PieceKey]) -> list[Shown]:
        """Read pieces, in this order."""
        query = """
            SELECT p.document, p.piece, d.document_id, d.project_id, d.content_type, d.metadata, p."start", p."end",
                p.content, d.pieces
            FROM unnest(%(documents)s::bigint[], %(pieces)s::int[]) AS k (document, piece)
            JOIN rag.pieces p ON p.user_id = %(user)s AND p.document = k.document AND p.piece = k.piece
            JOIN rag.documents d ON d.user_id = %(user)s AND d.document = k.document"""
        facts = {"documents": [key.document for key in keys], "pieces": [key.piece for key in keys]}
        found = {PieceKey(row[0], row[1]): row[2:] for row in await self._rows(query, facts)}
        return [Shown(key, *found[key]) for key in keys if key in found]

    async def held(self, keys: Sequence[PieceKey], terms: Sequence[str]) -> dict[PieceKey, dict[str, int]]:
        """How often each of these pieces has each of these terms."""
        times: dict[PieceKey, dict[str, int]] = {key: {} for key in keys}
        # A row for each piece and not for each term, which would be nine times as many; and one look into the index for a piece:
        # PostgreSQL expects few rows of a term, and would read all there are.
        query = """
            SELECT k.document, k.piece, p.terms, p.times
            FROM unnest(%(documents)s::bigint[], %(pieces)s::int[]) AS k (document, piece), LATERAL (
                SELECT array_agg(p.term) AS terms, array_agg(p.times) AS times FROM rag.postings p
                WHERE p.user_id = %(user)s AND p.term = ANY(%(terms)s)
                AND p.document = k.document AND p.piece = k.piece) p WHERE p.terms IS NOT NULL"""
        facts = {
            "documents": [key.document for key in keys],
            "pieces": [key.piece for key in keys],
            "terms": list(terms),
        }
        for document, piece, found, often in await self._rows(query, facts) if keys and terms else ():
            times[PieceKey(document, piece)] = dict(zip(found, often, strict=True))
        return times

    async def statistics(self, terms: Sequence[str]) -> Statistics:
        """Count what ranking must know of the searched scope, for these terms."""
        wanted = list(dict.fromkeys(term[:LONGEST_TERM] for term in terms if term))
        size = f"SELECT sum(d.pieces), sum(d.terms) FROM rag.documents d WHERE {self._scope.where}"
        counted, length = (await self._rows(size, {}))[0]
        if not counted:
            return Statistics(0, 0.0, {})
        pieces, scope = int(counted), (self._facts["user"], *self._scope.key)
        known = self._frequencies.known(scope, pieces, wanted)
        new = await self._counted([term for term in wanted if term not in known])
        self._frequencies.learn(scope, pieces, new)
        return Statistics(pieces, float(length) / pieces, known | new)

    async def _counted(self, terms: Sequence[str]) -> dict[str, int]:
        """In how many pieces of the scope each of these terms is."""
        scope, joined = self._within("p")
        query = f"""
            {scope} SELECT p.term, count(*) FROM rag.postings p {joined}
            WHERE p.user_id = %(user)s AND p.term = ANY(%(terms)s) GROUP BY p.term"""
        if not scope:  # a look into the index for each term, which needs no table of them
            query = """
                SELECT t.term, c.n FROM unnest(%(terms)s::text[]) AS t (term), LATERAL (SELECT count(*) AS n
                    FROM rag.postings p WHERE p.user_id = %(user)s AND p.term = t.term COLLATE "C") c WHERE c.n > 0"""
        return dict(await self._rows(query, {"terms": list(terms)})) if terms else {}

    async def _best(
        self, terms: Sequence[str], statistics: Statistics, limit: int, enough: float
    ) -> tuple[dict[PieceKey, dict[str, int]], dict[PieceKey, int], int]:
        """The best pieces by these terms alone.

        Args:
            enough: what the terms of a piece must weigh together for it to be counted.

        Returns:
            How often each has each of them; how many terms it has in all; and how many pieces there are.
        """
        scope, joined = self._within("p")
        query = f"""
            {scope} SELECT p.document, p.piece, array_agg(p.term), array_agg(p.times), max(p.terms),
                count(CASE WHEN sum(w.idf) >= %(enough)s::float8 THEN 1 END) OVER (),
                sum(w.idf * p.times / (p.times + %(k)s::float8 + %(l)s::float8 * p.terms)) AS score
            FROM rag.postings p JOIN unnest(%(terms)s::text[], %(idfs)s::float8[]) AS w (term, idf) ON p.term = w.term
                {joined}
            WHERE p.user_id = %(user)s AND p.term = ANY(%(terms)s)
            GROUP BY p.document, p.piece ORDER BY score DESC, p.document, p.piece LIMIT %(limit)s"""
        facts = {
            "terms": list(terms),
            "idfs": [statistics.idf(term) for term in terms],
            "k": K1 * (1 - B),
            "l": K1 * B / max(statistics.mean_length, 1.0),
            "limit": limit,
            "enough": enough * (1 - 1e-9),  # a sum in another order may be a little less
        }
        rows = await self._rows(query, facts)
        times = {PieceKey(row[0], row[1]): dict(zip(row[2], row[3], strict=True)) for row in rows}
        return times, {PieceKey(row[0], row[1]): row[4] for row in rows}, rows[0][5] if rows else 0

    def _within(self, table: str) -> tuple[str, str]:
        """What begins a query and what joins its table, so that what is not in the scope is left out; nothing where nothing is.

        Materialized, because PostgreSQL expects fewer rows of a term than there are, and would look up each one's document.
        """
        if self._scope.everything:
            return "", ""
        scope = f"WITH scope AS MATERIALIZED (SELECT d.document FROM rag.documents d WHERE {self._scope.where})"
        return scope, f"JOIN scope ON scope.document = {table}.document"

    async def _rows(self, query: str, facts: Mapping[str, Any]) -> list[Any]:
        cursor = await self._connection.execute(query.encode(), {**self._facts, **facts})
        return await cursor.fetchall()
