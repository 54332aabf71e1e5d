"""Search, IndexDocument and DeleteDocument: from a request to pieces, terms and vectors, and from what is found to an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from qingyu_ai.bus.errors import Denied
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.events import documents
from qingyu_ai.settings import Rag

from .beside import Beside
from .embedding import Vectors
from .faults import check_text, refuse
from .finding import Finder, Found, Query
from .highlights import highlights
from .searching import Scope, Shown
from .splitting import split
from .store import Store
from .stored import Document, Model, Piece, Vector, hash_of
from .terms import MOST_NAMES, names_of, terms

LONGEST_QUERY = 10_000
"""Characters; as the edge has it."""

PAGE = 50
"""Results of a search that are made in the loop."""

TakeApart = Callable[[str, Sequence[str], Rag], list[Piece]]
"""A text, the names that it may hold, and the settings to pieces with their terms."""


class RagService:
    """Answers the three rows.

    Args:
        embedders: by `Model.key`: the one that everything is to have (`target`), and those that users' vectors may still be of.
        take_apart: another way than `taken_apart`.
        beside: where texts are taken apart.
        on_stored: told of each user for whom something was stored or removed.
    """

    def __init__(
        self,
        store: Store,
        finder: Finder,
        embedders: Mapping[str, Vectors],
        target: Model,
        own: Rag,
        take_apart: TakeApart | None = None,
        beside: Beside | None = None,
        on_stored: Callable[[str], None] = lambda user: None,
    ) -> None:
        self._store = store
        self.finder = finder
        self._embedders = embedders
        self._target = target
        self._own = own
        self._take_apart = take_apart or taken_apart
        self._beside = beside or Beside()
        self._on_stored = on_stored

    async def index(self, call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        """Store a document."""
        project = request.project_id or call.project
        metadata = dict(request.metadata)
        document = Document(request.document_id, project, request.content_type, metadata, names_of(metadata))
        self._store.check(document, request.content)
        if call.projects is not None and project not in call.projects:
            raise Denied  # before anything is spent on it
        standing = await self._store.standing(call.user, project, call.deadline)
        names = tuple(dict.fromkeys((*document.names, *standing.names)))[:MOST_NAMES]
        pieces = await self._beside.do(self._take_apart, request.content, names, self._own)
        wanted = dict.fromkeys((self._target.key, standing.serving or self._target.key))
        vectors = {
            self._embedders[key].model: await self._vectors(call, self._embedders[key], pieces)
            for key in wanted
            if key in self._embedders
        }
        note = documents.indexed(call, request.document_id, request.content_type, len(pieces))
        stored = await self._store.put(
            call.user, document, pieces, vectors, self._target, call.submitted, call.deadline, note, call.projects
        )
        self._on_stored(call.user)
        message = "replaced by a newer version already" if stored.superseded else ""
        return rag.IndexResponse(
            document_id=request.document_id, success=True, message=message, chunks_count=stored.pieces
        )

    async def delete(self, call: Call, request: rag.DeleteRequest) -> rag.DeleteResponse:
        """Remove a document."""
        note = documents.deleted(call, request.document_id)
        removed = await self._store.delete(
            call.user, request.document_id, call.submitted, call.deadline, note, call.projects
        )
        self._on_stored(call.user)
        if removed.found or removed.superseded:
            return rag.DeleteResponse(success=True)
        return rag.DeleteResponse(
            success=False, message=f"there is no document {request.document_id!r} / 没有文档 {request.document_id!r}"
        )

    async def search(self, call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        """Find pieces."""
        began = time.monotonic()
        refuse(check_text("query", request.query, LONGEST_QUERY))
        options = request.options
        project = request.project_id or call.project
        if project and call.projects is not None and project not in call.projects:
            raise Denied
        scope = Scope(project, tuple(request.content_types), dict(options.filters), call.projects)
        top_k = request.top_k or self._own.top_k
        query = Query(request.query, scope, options.enable_hybrid, options.enable_rerank, options.min_score, top_k)
        found = await self.finder.find(call.user, query, call.deadline)
        shown = found.pieces[:top_k]
        # A thread costs more than what a page of results takes; a thousand take half a second, and the loop must turn.
        results = _results(shown, found) if len(shown) <= PAGE else await asyncio.to_thread(_results, shown, found)
        return rag.SearchResponse(
            results=results,
            total_count=found.total,
            duration_ms=int((time.monotonic() - began) * 1000),
            status=common.Status(code=0, message="; ".join(found.notes) or "ok"),
        )

    async def _vectors(self, call: Call, embedder: Vectors, pieces: Sequence[Piece]) -> list[Vector]:
        """The pieces' vectors; a text that has one already is not embedded again."""
        hashes = [piece.hash for piece in pieces]
        known: dict[bytes, Vector] = dict(
            await self._store.known(call.user, embedder.model, hashes, call.deadline) if pieces else {}
        )
        new = {hash_of(piece.text): piece.text for piece in pieces if piece.hash not in known}
        if new:
            known |= dict(zip(new, await embedder.embed(list(new.values()), call.deadline), strict=True))
        return [known[hash_] for hash_ in hashes]


def taken_apart(text: str, names: Sequence[str], own: Rag) -> list[Piece]:
    """Split a document, and take its pieces apart into terms."""
    return [
        Piece(piece.index, piece.start, piece.end, piece.text, terms(piece.text, names))
        for piece in split(text, own.piece_characters, own.overlap_characters)
    ]


def _results(pieces: Sequence[tuple[Shown, float]], found: Found) -> list[rag.SearchResult]:
    return [
        rag.SearchResult(
            document_id=shown.document_id,
            content=shown.text,
            score=score,
            metadata=shown.metadata,
            content_type=shown.content_type,
            highlights=highlights(shown.text, found.weights),
        )
        for shown, score in pieces
    ]
