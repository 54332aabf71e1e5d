"""A whole system as an engine: what a caller finds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from bench.rag_system import RagSystem, index_all, search_method
from qingyu_ai.contract import rag_pb2 as rag

from .corpus import Document
from .engine import Mode, Result

SERVED: tuple[Mode, ...] = ("vectors", "hybrid", "hybrid + rerank")
"""Full text alone cannot be asked for: with lexical vectors it is what hybrid does."""

USER = "reader"


class OverGrpc:
    """See `engine.Engine`."""

    def __init__(self, system: RagSystem) -> None:
        self._system = system

    def index(self, documents: Sequence[Document]) -> None:
        """Store the documents."""
        requests = [
            rag.IndexRequest(document_id=str(one.number), content=one.text, user_id=USER, content_type="chapter")
            for one in documents
        ]

        async def all_() -> rag.BatchIndexResponse:
            async with self._system.channel() as channel:
                return await index_all(channel, requests)

        answer = asyncio.run(all_())
        assert answer.success_count == len(documents), answer
        self._system.prepared()

    def search(self, query: str, mode: Mode) -> list[Result]:
        """The pieces that fit, the best first."""
        options = rag.SearchOptions(enable_hybrid=mode != "vectors", enable_rerank=mode == "hybrid + rerank")
        request = rag.SearchRequest(query=query, user_id=USER, top_k=100, options=options)
        with grpc.insecure_channel(f"127.0.0.1:{self._system.port}") as channel:
            answer = search_method(channel)(request, timeout=60)
        return [Result(int(one.document_id), one.content, one.score) for one in answer.results]
