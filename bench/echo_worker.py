"""A worker that echoes: the far end of the bridge's benches and of the bridge's own tests.

Search answers with the query; Chat with the last message; ChatStream sends it back in deltas, as the request's context says:
`deltas` (how many), `per_second` (0: as fast as it can) and `silent_seconds` (before the first).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings


async def search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
    """Send the query back."""
    return rag.SearchResponse(results=[rag.SearchResult(document_id="echo", content=request.query)], total_count=1)


async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
    """Index nothing."""
    return rag.IndexResponse(document_id=request.document_id, success=True, chunks_count=1)


async def delete(call: Call, request: rag.DeleteRequest) -> rag.DeleteResponse:
    """Delete nothing."""
    return rag.DeleteResponse(success=True)


async def chat(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
    """Send the last message back."""
    return ai.ChatResponse(
        message=common.Message(role="assistant", content=request.messages[-1].content), tokens_used=1
    )


async def chat_stream(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
    """Send the last message again and again, at the pace that the request asks for."""
    context = request.context
    deltas, per_second = int(context.get("deltas", "1")), float(context.get("per_second", "0"))
    await asyncio.sleep(float(context.get("silent_seconds", "0")))
    text = request.messages[-1].content
    loop = asyncio.get_running_loop()
    began = loop.time()
    for i in range(deltas):
        if per_second:
            await asyncio.sleep(max(0.0, began + i / per_second - loop.time()))
        yield ai.ChatStreamChunk(delta=text)
    yield ai.ChatStreamChunk(is_final=True)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run an echo worker of the kind that `ECHO_KIND` names, `chat` or `rag`."""
    kind = os.environ.get("ECHO_KIND", "chat")

    def serve(bus: NatsBus, worker: Worker) -> None:
        if kind == "rag":
            worker.rpc(routes.SEARCH, search)
            worker.job(routes.INDEX_DOCUMENT, index)
            worker.job(routes.DELETE_DOCUMENT, delete)
        else:
            worker.job(routes.CHAT, chat)
            worker.stream(routes.CHAT_STREAM, chat_stream)

    await worker_process(kind, settings, settings.chat, stop, serve)


if __name__ == "__main__":
    run(os.environ.get("ECHO_KIND", "chat"), main)
