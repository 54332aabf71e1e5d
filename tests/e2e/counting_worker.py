"""A chat worker whose words tell who said them: the echo worker's paces, with deltas that count.

    4711: 0 1 2 3 …

A worker that takes over goes on counting, so the name is that of who began. A text that misses, repeats or swaps a delta is
not what `spoken` returns. Chat and ChatStream obey the request's context: `deltas` (how many), `per_second` (0: as fast as it
can), `silent_seconds` (before the first) and `padding` (characters more in each). Each run is a line in the log, when it
begins and when it is over.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import structlog

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings

log = structlog.get_logger(__name__)

BEGINS = "begins_to_count"
"""The line of a run whose handler has started, so whose call is claimed."""

STOPS = "stops_counting"
"""The line of a run whose handler is over, however it ended."""


def delta(pid: int, i: int, padding: int = 0) -> str:
    """One delta of a stream."""
    return f"{'' if i else f'{pid}:'} {i}{'字' * padding}"


def spoken(pid: int, deltas: int, padding: int = 0) -> str:
    """The whole text of a stream."""
    return "".join(delta(pid, i, padding) for i in range(deltas))


async def count(call: Call, request: ai.ChatRequest) -> AsyncGenerator[str, None]:
    """Say the deltas at the pace that the request asks for."""
    context = request.context
    deltas, per_second = int(context.get("deltas", "1")), float(context.get("per_second", "0"))
    padding = int(context.get("padding", "0"))
    log.info(BEGINS, request_id=call.request_id)
    try:
        await asyncio.sleep(float(context.get("silent_seconds", "0")))
        loop = asyncio.get_running_loop()
        began = loop.time()
        # One blank for each delta that a worker before this one said.
        first = "".join([chunk.delta for chunk in call.said]).count(" ")
        for i in range(first, deltas):
            await asyncio.sleep(max(0.0, began + (i - first) / per_second - loop.time()) if per_second else 0)
            yield delta(os.getpid(), i, padding)
    finally:
        log.info(STOPS, request_id=call.request_id)


async def chat(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
    """Count, and answer with all of it."""
    said = [text async for text in count(call, request)]
    return ai.ChatResponse(message=common.Message(role="assistant", content="".join(said)))


async def chat_stream(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
    """Count aloud."""
    async with aclosing(count(call, request)) as counting:
        async for text in counting:
            yield ai.ChatStreamChunk(delta=text)
    if not any(chunk.is_final for chunk in call.said):
        yield ai.ChatStreamChunk(is_final=True)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run the worker until `stop` is set."""

    def serve(bus: NatsBus, worker: Worker) -> None:
        worker.job(routes.CHAT, chat)
        worker.stream(routes.CHAT_STREAM, chat_stream, continues=True)

    await worker_process("chat", settings, settings.chat, stop, serve)


if __name__ == "__main__":
    run("chat", main)
