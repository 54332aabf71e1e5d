"""From a query to results: candidates by words and by meaning, one order of them, a closer look, scores.

The order comes from ranking, the score from what a piece holds of the query (`ranking.relevance`). So a `min_score` means the
same whether a search was by meaning, hybrid or reranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Expired, Fault
from qingyu_ai.settings import Rag
from services.llm.vectors import Reranker

from .embedding import Vectors
from .faults import Collided
from .ranking import FULL_TEXT_WEIGHT, by_document, coverage, descending, fuse, relevance, similarity
from .rerank import CANDIDATES, rerank
from .searching import ByWords, Near, Reader, Scope, Shown, View, by_rarity, query_weights
from .store import Standing
from .stored import PieceKey, Vector
from .terms import query_terms

log = structlog.get_logger(__name__)

SWITCHES = 3
"""How often the model of a user's vectors may change under one search."""

WORDS_ONLY = "vectors are not available now; found by words only / 向量暂不可用，仅按词语检索"
NOT_RERANKED = "the reranking model is not available now / 重排模型暂不可用，未重排"


class ModelGone(Fault):
    """The user's vectors are of a model that this deployment has no more, and the new ones are not there yet."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "REINDEXING",
            "These documents are being prepared for another model; try again in a while, or search with enable_hybrid",
            "这些文档正在为新的模型重新建立索引，请稍后重试，或启用 enable_hybrid 检索",
            retry_seconds=30.0,
        )


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked."""

    text: str
    scope: Scope
    hybrid: bool = False
    rerank: bool = False
    min_score: float = 0.0
    at_most: int = 0
    """Results that are wanted."""


@dataclass(frozen=True, slots=True)
class Found:
    """Results, the best first."""

    pieces: list[tuple[Shown, float]] = field(default_factory=list)
    """With scores from 0 to 1."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The query's terms, each with what it tells."""
    notes: Sequence[str] = ()
    """What was left out, for the caller."""
    total: int = 0
    """Pieces that there are, also beyond those that were ranked (docs/retrieval.md, "How many there are")."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    keys: list[PieceKey]
    covered: Mapping[PieceKey, float]
    """By piece: how much of the query it holds."""
    similar: Mapping[PieceKey, float]
    """By piece: how near in meaning it is, 0 to 1."""
    words: Mapping[PieceKey, float]
    """By piece: BM25."""
    shown: Mapping[PieceKey, Shown]
    weights: Mapping[str, float]
    total: int
    """Pieces, without a look at those that were not ranked."""


class Finder:
    """See the module.

    Args:
        embedders: by `Model.key`.
        reranker: None: the local one.
    """

    def __init__(
        self,
        reader: Reader,
        embedders: Mapping[str, Vectors],
        own: Rag,
        reranker: Reranker | None = None,
    ) -> None:
        self._reader = reader
        self._embedders = embedders
        self._own = own
        self._reranker = reranker

    async def find(self, user: str, query: Query, deadline: Deadline) -> Found:
        """Search.

        Raises:
            Invalid: the scope can hold nothing.
            ModelGone, UpstreamFault, EmbeddingMisfit: there is no vector of the query, and it is not to be found by words.
            DatabaseDown, Expired, Collided: see `faults`.
        """
        query.scope.check(self._own)
        notes: list[str] = []
        candidates = await self._candidates(user, query, deadline, notes)
        if candidates is None:
            return Found()
        keys = candidates.keys
        if query.rerank and keys:
            keys = await self._reranked(query.text, candidates, deadline, notes)
        scored = [
            (key, relevance(candidates.covered.get(key, 0.0), candidates.similar.get(key, 0.0)))
            for key in keys
            if key in candidates.shown
        ]
        good = [(key, score) for key, score in scored if score >= query.min_score]
        scores = descending([score for _, score in good])
        pieces = [(candidates.shown[key], score) for (key, _), score in zip(good, scores, strict=True)]
        return Found(pieces, candidates.weights, notes, max(len(pieces), candidates.total))

    async def _candidates(self, user: str, query: Query, deadline: Deadline, notes: list[str]) -> _Candidates | None:
        """A view holds a connection, so no model is asked for the query's vector meanwhile; if the user was switched to another
        model before the next view was opened, it is done again."""
        vector, background, asked = None, 1.0, ""
        for _ in range(SWITCHES):
            async with self._reader.view(user, query.scope, deadline) as view:
                standing = await view.standing()
                if standing.serving is None:
                    return None
                embedder = self._embedders.get(standing.serving)
                if asked == standing.serving or (query.hybrid and embedder is not None and not embedder.weight):
                    return await self._gathered(view, query, standing, vector, background)
            asked = standing.serving
            notes.clear()
            vector, background = await self._vector(query, standing, deadline, notes)
        raise Collided

    async def _vector(
        self, query: Query, standing: Standing, deadline: Deadline, notes: list[str]
    ) -> tuple[Vector | None, float]:
        """The query's vector, None if it is to be found by words only; and the cosine of what has nothing in common."""
        embedder = self._embedders.get(standing.serving or "")
        try:
            if embedder is None:
                raise ModelGone
            background = await embedder.background(deadline)
            return (await embedder.embed([query.text], deadline))[0], background
        except Expired:
            raise
        except Fault as fault:
            if not query.hybrid:
                raise
            log.warning("found_by_words_only", reason=fault.reason)
            notes.append(WORDS_ONLY)
            return None, 1.0

    async def _gathered(
        self, view: View, query: Query, standing: Standing, vector: Vector | None, background: float
    ) -> _Candidates:
        limit = max(self._own.candidates, query.at_most)
        embedder = self._embedders.get(standing.serving or "")
        near: list[Near] = []
        if embedder is not None and vector is not None:
            near = await view.by_vector(embedder.model, vector, limit)
        terms = query_terms(query.text, standing.names)
        worded: ByWords | None = await view.by_words(terms, limit, query.min_score) if query.hybrid else None
        statistics = worded.statistics if worded is not None else await view.statistics(terms)
        words = {one.key: one.score for one in worded.pieces} if worded is not None else {}
        cosines = {one.key: max(0.0, one.similarity) for one in near}
        shown = {one.key: one for one in await view.show(list(dict.fromkeys((*words, *cosines))))}
        by_words, by_meaning = (_in_order(scores, shown) for scores in (words, cosines))
        keys = by_meaning
        if worded is not None and not near:
            keys = by_words
        elif worded is not None and embedder is not None:
            keys = fuse([(FULL_TEXT_WEIGHT, by_words), (embedder.weight, by_meaning)], _document)
        keys = keys[:limit]
        held = {one.key: one.times for one in worded.pieces} if worded is not None else {}
        held = {**held, **await view.held([key for key in keys if key not in held], by_rarity(statistics))}
        weights = query_weights(terms, statistics)
        covered = {key: coverage(weights, held[key]) for key in keys}
        similar = {key: similarity(value, background) for key, value in cosines.items()}
        total = statistics.pieces if near and not query.min_score else worded.total if worded is not None else 0
        return _Candidates(keys, covered, similar, words, shown, weights, total)

    async def _reranked(
        self, query: str, candidates: _Candidates, deadline: Deadline, notes: list[str]
    ) -> list[PieceKey]:
        first, rest = candidates.keys[:CANDIDATES], candidates.keys[CANDIDATES:]
        texts = [candidates.shown[key].text for key in first]
        if self._reranker is None:
            scores = rerank(texts, [candidates.words.get(key, 0.0) for key in first], candidates.weights)
            return _in_order(dict(zip(first, scores, strict=True)), candidates.shown) + rest
        try:
            scores = await self._reranker.scores(query, texts, deadline)
        except Expired:
            raise
        except Fault as fault:
            log.warning("not_reranked", reason=fault.reason)
            notes.append(NOT_RERANKED)
            return candidates.keys
        ordered = sorted(zip(first, scores, strict=True), key=lambda one: -one[1])
        return [key for key, _ in ordered] + rest


def _document(key: PieceKey) -> int:
    return key.document


def _in_order(scores: Mapping[PieceKey, float], shown: Mapping[PieceKey, Shown]) -> list[PieceKey]:
    sizes = {key.document: one.pieces for key, one in shown.items()}
    return by_document(scores, _document, lambda document: sizes.get(document, 1))
