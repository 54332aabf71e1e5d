"""The peer of the bridge's benches: a gRPC server (grpc.aio, uvloop) that does the same echo itself, with nothing behind it.

It keeps the contract's rule that the request id comes back in the initial metadata, as any server of this contract must;
`--bare` leaves that out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import uvloop

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, rag_pb2_grpc

BARE = "--bare" in sys.argv
INTRODUCTION = (("x-request-id", "req_1795506135856782334_aaac3f61"),)

Context = grpc.aio.ServicerContext[object, object]


async def introduce(context: Context) -> None:
    """Send the request id."""
    if not BARE:
        await context.send_initial_metadata(INTRODUCTION)


class Rag(rag_pb2_grpc.RAGServiceServicer):
    """Search."""

    async def Search(self, request: rag.SearchRequest, context: Context) -> rag.SearchResponse:
        """Send the query back."""
        await introduce(context)
        return rag.SearchResponse(results=[rag.SearchResult(document_id="echo", content=request.query)], total_count=1)


class Agent(ai_agent_pb2_grpc.AIAgentServiceServicer):
    """Chat and ChatStream."""

    async def Chat(self, request: ai.ChatRequest, context: Context) -> ai.ChatResponse:
        """Send the last message back."""
        await introduce(context)
        message = common.Message(role="assistant", content=request.messages[-1].content)
        return ai.ChatResponse(message=message, tokens_used=1)

    async def ChatStream(self, request: ai.ChatRequest, context: Context) -> AsyncIterator[ai.ChatStreamChunk]:
        """Send the last message again and again, as `bench.echo_worker` does."""
        await introduce(context)
        deltas, per_second = int(request.context.get("deltas", "1")), float(request.context.get("per_second", "0"))
        text = request.messages[-1].content
        loop = asyncio.get_running_loop()
        began = loop.time()
        for i in range(deltas):
            if per_second:
                await asyncio.sleep(max(0.0, began + i / per_second - loop.time()))
            yield ai.ChatStreamChunk(delta=text)
        yield ai.ChatStreamChunk(is_final=True)


async def main() -> None:
    """Serve on a free port, and print it."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    # Servicers of two services that serve what is measured; the generated base classes answer UNIMPLEMENTED for the rest.
    rag_pb2_grpc.add_RAGServiceServicer_to_server(Rag(), server)  # type: ignore[abstract]
    ai_agent_pb2_grpc.add_AIAgentServiceServicer_to_server(Agent(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
