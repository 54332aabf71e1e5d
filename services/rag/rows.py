"""A document's rows, and how they are inserted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from .database import Connection
from .stored import Document, Model, Piece, Vector, counted, unit


@dataclass(frozen=True, slots=True)
class Rows:
    """A document's rows by column, made before the transaction: there is nothing to compute while rows are locked."""

    pieces: dict[str, list[Any]]
    postings: dict[str, str]
    """A document has thousands: psycopg would look at each of them for what must be quoted."""
    vectors: dict[str, list[Any]]
    terms: int

    @classmethod
    def of(cls, pieces: Sequence[Piece], vectors: Mapping[Model, Sequence[Vector]]) -> Rows:
        """Make them.

        Args:
            vectors: by model, for each piece one.
        """
        times = [counted(piece.terms) for piece in pieces]
        lengths = [count.total() for count in times]
        postings = [
            (term, piece.index, n, length)
            for piece, count, length in zip(pieces, times, lengths, strict=True)
            for term, n in count.items()
        ]
        made = [
            (model.key, piece.index, piece.hash, unit(vector, model.dimension))
            for model, of_pieces in vectors.items()
            for piece, vector in zip(pieces, of_pieces, strict=True)
        ]
        return cls(
            {
                "numbers": [piece.index for piece in pieces],
                "starts": [piece.start for piece in pieces],
                "ends": [piece.end for piece in pieces],
                "contents": [piece.text for piece in pieces],
                "terms": lengths,
                "hashes": [piece.hash for piece in pieces],
            },
            {
                "terms": "\n".join([term for term, _, _, _ in postings]),
                "numbers": _integers(number for _, number, _, _ in postings),
                "times": _integers(n for _, _, n, _ in postings),
                "lengths": _integers(length for _, _, _, length in postings),
            },
            dict(zip(("models", "numbers", "hashes", "vectors"), _columns(made, 4), strict=True)),
            sum(lengths),
        )


def _integers(numbers: Iterable[int]) -> str:
    """Write an array as PostgreSQL reads it."""
    return f"{{{','.join(map(str, numbers))}}}"


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]


async def insert(connection: Connection, user: str, document: Document, rows: Rows) -> None:
    """Insert them, in the transaction of the connection."""
    query = """
        INSERT INTO rag.documents (user_id, document_id, project_id, content_type, metadata, pieces, terms)
        VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING document"""
    facts = (user, document.document_id, document.project_id, document.content_type, Jsonb(document.metadata))
    made = await connection.execute(query, (*facts, len(rows.pieces["numbers"]), rows.terms))
    row = await made.fetchone()
    common = {"user": user, "document": row[0] if row else 0}
    await connection.execute(
        "INSERT INTO rag.names (user_id, project_id, name, document) "
        "SELECT %(user)s, %(project)s, unnest(%(names)s::text[]), %(document)s",
        {**common, "project": document.project_id, "names": list(dict.fromkeys(document.names))},
    )
    await connection.execute(
        """
        INSERT INTO rag.pieces (user_id, document, piece, "start", "end", content, terms, hash)
        SELECT %(user)s, %(document)s, * FROM unnest(%(numbers)s::int[], %(starts)s::int[], %(ends)s::int[],
            %(contents)s::text[], %(terms)s::int[], %(hashes)s::bytea[])""",
        {**common, **rows.pieces},
    )
    await connection.execute(
        """
        INSERT INTO rag.postings (user_id, term, document, piece, times, terms)
        SELECT %(user)s, term, %(document)s, piece, times, terms
        FROM unnest(string_to_array(%(terms)s, chr(10)), %(numbers)s::int[], %(times)s::int[], %(lengths)s::int[])
            AS p (term, piece, times, terms)""",
        {**common, **rows.postings},
    )
    await connection.execute(
        """
        INSERT INTO rag.vectors (user_id, model, document, piece, hash, embedding)
        SELECT %(user)s, model, %(document)s, piece, hash, embedding::vector
        FROM unnest(%(models)s::text[], %(numbers)s::int[], %(hashes)s::bytea[], %(vectors)s::text[])
            AS v (model, piece, hash, embedding)""",
        {**common, **rows.vectors},
    )
