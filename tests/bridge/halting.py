"""A handler that a test lets go or stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai


class Halting:
    """Says a word, then waits to be stopped or let go."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.ran = self.stopped = 0

    async def stream(self, call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        self.ran += 1
        try:
            yield ai.ChatStreamChunk(delta="前")
            await self.release.wait()
            yield ai.ChatStreamChunk(delta="后")
            yield ai.ChatStreamChunk(is_final=True)
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise

    async def chat(self, call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        self.ran += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return ai.ChatResponse()
