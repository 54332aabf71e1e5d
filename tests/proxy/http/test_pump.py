"""At most 100 chunks wait between a stream and its socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.proxy.errors import CANCELLED, AIProxyError
from services.proxy.http.pump import MOST_CHUNKS, Pump
from services.proxy.models import StreamChunk
from tests.waiting import eventually


class Source:
    """A stream that counts what it has said, and knows how it was left."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count = count
        self.error = error
        self.said = 0
        self.closed = False

    async def stream(self) -> AsyncGenerator[StreamChunk, None]:
        try:
            for _ in range(self.count):
                self.said += 1
                yield StreamChunk(delta=str(self.said))
                await asyncio.sleep(0)
            if self.error:
                raise self.error
        finally:
            self.closed = True


async def drain(pump: Pump, taken: list[StreamChunk]) -> None:
    while not pump.over:
        taken += await pump.take(5)


async def test_stream_waits_once_100_chunks_do_and_goes_on_when_they_are_taken() -> None:
    source = Source(1000)
    async with Pump(source.stream()) as pump:
        await eventually(lambda: pump.waiting == MOST_CHUNKS)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert (pump.waiting, source.said) == (100, 100)
        assert [chunk.delta for chunk in await pump.take(5)] == [str(i) for i in range(1, 101)]
        await eventually(lambda: source.said == 200)
    assert source.closed


async def test_all_is_taken_before_the_end_and_the_end_only_once() -> None:
    async with Pump(Source(3).stream()) as pump:
        taken: list[StreamChunk] = []
        await drain(pump, taken)
        assert len(taken) == 3


async def test_all_is_taken_before_the_error() -> None:
    async with Pump(Source(3, AIProxyError(CANCELLED)).stream()) as pump:
        taken: list[StreamChunk] = []
        with pytest.raises(AIProxyError):
            await drain(pump, taken)
        assert len(taken) == 3


async def test_silence_is_an_empty_hand() -> None:
    async def silent() -> AsyncGenerator[StreamChunk, None]:
        await asyncio.Event().wait()
        yield StreamChunk()

    async with Pump(silent()) as pump:
        assert await pump.take(0.01) == []
        assert not pump.over
