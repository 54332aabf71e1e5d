"""Search, IndexDocument and DeleteDocument: from a request to pieces, terms and vectors, and from what is found to an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import Rag

from .faults import Collided, check_text, refuse
from .reembedding import Embedder
from .searching import ByWords, Near, Reader, Scope, Shown
from .store import Store
from .stored import Document, Model, Piece, PieceKey, Vector, hash_of

LONGEST_QUERY = 10_000
"""Characters; as the edge has it."""

SWITCHES = 3
"""How often the model of a user's vectors may change under one search."""

Split = Callable[[str, Mapping[str, str]], Sequence[Piece]]
"""A text and its document's metadata to its pieces, with their terms."""

Terms = Callable[[str], Sequence[str]]
"""A query to its terms."""

Fuse = Callable[[ByWords | None, Sequence[Near]], Sequence[tuple[PieceKey, float]]]
"""What was found by words (None: not asked for) and by meaning to one ranking, the best first, with scores from 0 to 1."""

Weights = Mapping[str, float]
"""How much each of the query's terms tells, in the searched scope."""

Rerank = Callable[[str, Sequence[str], Sequence[float], Weights, Deadline], Awaitable[Sequence[float]]]
"""A query, texts, their scores, the weights of the query's terms and the call's deadline to scores from 0 to 1."""

Highlight = Callable[[str, Weights], Sequence[str]]
"""A text and the weights of the query's terms to parts of the text around them."""


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
class Parts:
    """What knows about texts."""

    split: Split
    terms: Terms
    fuse: Fuse
    highlight: Highlight
    rerank: Rerank | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates, the best first."""

    scored: list[tuple[PieceKey, float]]
    shown: Mapping[PieceKey, Shown]
    weights: Weights


class RagService:
    """Answers the three rows.

    Args:
        embedders: by `Model.key`: the one that everything is to have (`target`), and those that users' vectors may still be of.
    """

    def __init__(
        self, store: Store, reader: Reader, parts: Parts, embedders: Mapping[str, Embedder], target: Model, own: Rag
    ) -> None:
        self._store = store
        self._reader = reader
        self._parts = parts
        self._embedders = embedders
        self._target = target
        self._own = own

    async def index(self, call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        """Store a document."""
        project = request.project_id or call.project
        document = Document(request.document_id, project, request.content_type, dict(request.metadata))
        self._store.check(document, request.content)
        # A large text takes seconds to split; the loop must go on turning.
        pieces = await asyncio.to_thread(self._parts.split, request.content, document.metadata)
        serving = await self._store.serving(call.user, call.deadline)
        wanted = dict.fromkeys((self._target.key, serving or self._target.key))
        vectors = {
            self._embedders[key].model: await self._vectors(call, self._embedders[key], pieces)
            for key in wanted
            if key in self._embedders
        }
        stored = await self._store.put(
            call.user, document, pieces, vectors, self._target, call.submitted, call.deadline
        )
        message = "replaced by a newer version already" if stored.superseded else ""
        return rag.IndexResponse(
            document_id=request.document_id, success=True, message=message, chunks_count=stored.pieces
        )

    async def delete(self, call: Call, request: rag.DeleteRequest) -> rag.DeleteResponse:
        """Remove a document."""
        removed = await self._store.delete(call.user, request.document_id, call.submitted, call.deadline)
        if removed.found or removed.superseded:
            return rag.DeleteResponse(success=True)
        return rag.DeleteResponse(
            success=False, message=f"there is no document {request.document_id!r} / 没有文档 {request.document_id!r}"
        )

    async def search(self, call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        """Find pieces."""
        began = time.monotonic()
        refuse(check_text("query", request.query, LONGEST_QUERY))
        scope = Scope(request.project_id or call.project, tuple(request.content_types), dict(request.options.filters))
        scope.check(self._own)
        top = request.top_k or self._own.top_k
        terms = self._parts.terms(request.query)
        found = await self._found(call, request, scope, terms, max(top, self._own.candidates))
        scored, shown = found.scored, found.shown
        if request.options.enable_rerank and self._parts.rerank is not None and scored:
            texts, scores = [shown[key].text for key, _ in scored], [score for _, score in scored]
            anew = await self._parts.rerank(request.query, texts, scores, found.weights, call.deadline)
            pairs = zip([key for key, _ in scored], anew, strict=True)
            scored = sorted(pairs, key=lambda one: -one[1])
        good = [(key, score) for key, score in scored if score >= request.options.min_score]
        return rag.SearchResponse(
            results=[self._result(shown[key], score, found.weights) for key, score in good[:top]],
            total_count=len(good),
            duration_ms=int((time.monotonic() - began) * 1000),
            status=common.Status(code=0, message="ok"),
        )

    async def _found(
        self, call: Call, request: rag.SearchRequest, scope: Scope, terms: Sequence[str], limit: int
    ) -> Found:
        """Candidates with their scores, and what they are. The query is embedded before the view is opened, which holds a
        connection; if the user was switched to another model meanwhile, it is done again."""
        hybrid = request.options.enable_hybrid
        for _ in range(SWITCHES):
            serving = await self._store.serving(call.user, call.deadline)
            if serving is None:
                return Found([], {}, {})
            embedder = self._embedders.get(serving)
            if embedder is None and not hybrid:
                raise ModelGone
            vector = (await embedder.embed([request.query], call.deadline))[0] if embedder is not None else None
            async with self._reader.view(call.user, scope, call.deadline) as view:
                if await view.serving() != serving:
                    continue
                near: list[Near] = []
                if embedder is not None and vector is not None:
                    near = await view.by_vector(embedder.model, vector, limit)
                worded = await view.by_words(terms, limit) if hybrid else None
                statistics = worded.statistics if worded is not None else await view.statistics(terms)
                scored = list(self._parts.fuse(worded, near))[:limit]
                shown = {one.key: one for one in await view.show([key for key, _ in scored])}
            return Found(scored, shown, {term: statistics.idf(term) for term in statistics.frequencies})
        raise Collided

    async def _vectors(self, call: Call, embedder: Embedder, pieces: Sequence[Piece]) -> list[Vector]:
        """The pieces' vectors; a text that has one already is not embedded again."""
        hashes = [piece.hash for piece in pieces]
        known: dict[bytes, Vector] = dict(
            await self._store.known(call.user, embedder.model, hashes, call.deadline) if pieces else {}
        )
        new = {hash_of(piece.text): piece.text for piece in pieces if piece.hash not in known}
        if new:
            known |= dict(zip(new, await embedder.embed(list(new.values()), call.deadline), strict=True))
        return [known[hash_] for hash_ in hashes]

    def _result(self, shown: Shown, score: float, weights: Weights) -> rag.SearchResult:
        return rag.SearchResult(
            document_id=shown.document_id,
            content=shown.text,
            score=score,
            metadata=shown.metadata,
            content_type=shown.content_type,
            highlights=self._parts.highlight(shown.text, weights),
        )
