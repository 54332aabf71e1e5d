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
from .searching import ByWords, Near, Reader, Scope, Shown, View, by_rarity
from .store import Standing, Store
from .stored import LONGEST_TERM, PieceKey, Vector
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


@dataclass(frozen=True, slots=True)
class Found:
    """Results, the best first."""

    pieces: list[tuple[Shown, float]] = field(default_factory=list)
    """With scores from 0 to 1."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The query's terms, each with what it tells."""
    notes: Sequence[str] = ()
    """What was left out, for the caller."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    keys: list[PieceKey]
    covered: Mapping[PieceKey, float]
    """By piece: how much of the query it holds."""
    similar: Mapping[PieceKey, float]
    """By piece: how near in meaning it is, 0 to 1."""
    words: Mapping[PieceKey, float]
    """By piece: BM25."""
    sizes: Mapping[int, int]
    shown: Mapping[PieceKey, Shown]
    weights: Mapping[str, float]


class Finder:
    """See the module.

    Args:
        embedders: by `Model.key`.
        reranker: None: the local one.
    """

    def __init__(
        self,
        store: Store,
        reader: Reader,
        embedders: Mapping[str, Vectors],
        own: Rag,
        reranker: Reranker | None = None,
    ) -> None:
        self._store = store
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
        return Found(pieces, candidates.weights, notes)

    async def _candidates(self, user: str, query: Query, deadline: Deadline, notes: list[str]) -> _Candidates | None:
        """The query is embedded before the view is opened, which holds a connection; if the user was switched to another model
        meanwhile, it is done again."""
        for _ in range(SWITCHES):
            standing = await self._store.standing(user, query.scope.project_id, deadline, query.scope.projects)
            if standing.serving is None:
                return None
            embedder = self._embedders.get(standing.serving)
            weight = embedder.weight if embedder is not None else 1.0
            vector, background = None, 1.0
            if weight or not query.hybrid:
                vector, background = await self._vector(query, standing, deadline, notes)
            async with self._reader.view(user, query.scope, deadline) as view:
                if await view.serving() != standing.serving:
                    notes.clear()
                    continue
                near: list[Near] = []
                if embedder is not None and vector is not None:
                    near = await view.by_vector(embedder.model, vector, self._own.candidates)
                return await self._gathered(view, query, standing, near, weight, background)
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
        self, view: View, query: Query, standing: Standing, near: Sequence[Near], weight: float, background: float
    ) -> _Candidates:
        terms = [term[:LONGEST_TERM] for term in query_terms(query.text, standing.names)]
        worded: ByWords | None = await view.by_words(terms, self._own.candidates) if query.hybrid else None
        statistics = worded.statistics if worded is not None else await view.statistics(terms)
        counted = by_rarity(statistics)
        weights = statistics.weights(dict.fromkeys([*(t for t in terms if t not in statistics.df), *counted]))
        words = {one.key: one.score for one in worded.pieces} if worded is not None else {}
        cosines = {one.key: max(0.0, one.similarity) for one in near}
        sizes = await view.sizes({key.document for key in (*words, *cosines)})
        by_words, by_meaning = (_in_order(scores, sizes) for scores in (words, cosines))
        keys = by_meaning
        if worded is not None and not near:
            keys = by_words
        elif worded is not None:
            keys = fuse([(FULL_TEXT_WEIGHT, by_words), (weight, by_meaning)], _document)
        keys = keys[: self._own.candidates]
        held = {one.key: one.times for one in worded.pieces} if worded is not None else {}
        held = {**held, **await view.held([key for key in keys if key not in held], counted)}
        covered = {key: coverage(weights, held[key]) for key in keys}
        similar = {key: similarity(value, background) for key, value in cosines.items()}
        shown = {one.key: one for one in await view.show(keys)}
        return _Candidates(keys, covered, similar, words, sizes, shown, weights)

    async def _reranked(
        self, query: str, candidates: _Candidates, deadline: Deadline, notes: list[str]
    ) -> list[PieceKey]:
        first, rest = candidates.keys[:CANDIDATES], candidates.keys[CANDIDATES:]
        texts = [candidates.shown[key].text for key in first]
        if self._reranker is None:
            scores = rerank(texts, [candidates.words.get(key, 0.0) for key in first], candidates.weights)
            return _in_order(dict(zip(first, scores, strict=True)), candidates.sizes) + rest
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


def _in_order(scores: Mapping[PieceKey, float], sizes: Mapping[int, int]) -> list[PieceKey]:
    return by_document(scores, _document, lambda document: sizes.get(document, 1))
