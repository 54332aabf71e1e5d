"""A stream that is read again goes on where its caller stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bridge.admission import RESUME_KEY
from qingyu_ai import routes
from qingyu_ai.bus.errors import TooLarge
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bridge.conftest import Bridge, Metadata, Refusal, chat
from tests.waiting import eventually

TEXT = "雨停了，😀林黛玉推开窗，看见天边有一道虹。"
PIECES = [TEXT[i : i + 3] for i in range(0, len(TEXT), 3)]


async def speak(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
    for piece in PIECES:
        yield ai.ChatStreamChunk(delta=piece)
    yield ai.ChatStreamChunk(is_final=True)


def asked(request_id: str, offset: int | None = None) -> Metadata:
    resume = () if offset is None else ((RESUME_KEY, str(offset)),)
    return (("x-request-id", request_id), *resume)


async def read(call: Any) -> str:
    text, final = "", 0
    async for chunk in call:
        assert not final, "a chunk came after the final one"
        text += chunk.delta
        final += chunk.is_final
    assert final == 1
    return text


async def test_finished_stream_goes_on_from_any_offset(bridge: Bridge) -> None:
    """Also inside a merged chunk, and at its very end."""
    await bridge.worker(stream=speak)
    stream = bridge.streaming(routes.CHAT_STREAM)
    assert await read(stream(chat("写"), metadata=asked("a"), timeout=10)) == TEXT
    for offset in range(len(TEXT) + 1):
        assert await read(stream(chat("写"), metadata=asked("a", offset), timeout=10)) == TEXT[offset:]


async def test_running_stream_goes_on_from_where_its_caller_stands(bridge: Bridge) -> None:
    release = asyncio.Event()
    ran = 0

    async def pause(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        nonlocal ran
        ran += 1
        for n, piece in enumerate(PIECES):
            if n == 4:
                await release.wait()
            yield ai.ChatStreamChunk(delta=piece)
        yield ai.ChatStreamChunk(is_final=True)

    await bridge.worker(stream=pause)
    stream = bridge.streaming(routes.CHAT_STREAM)
    first = asyncio.create_task(read(stream(chat("写"), metadata=asked("a"), timeout=10)))
    await eventually(lambda: ran)
    second = asyncio.create_task(read(stream(chat("写"), metadata=asked("a", 5), timeout=10)))
    await eventually(lambda: len(bridge.caller.readers) == 2)
    release.set()
    assert (await first, await second, ran) == (TEXT, TEXT[5:], 1)


async def test_stream_that_failed_gives_the_rest_of_its_text_and_then_its_error(bridge: Bridge) -> None:
    async def fail(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for piece in PIECES:
            yield ai.ChatStreamChunk(delta=piece)
        raise TooLarge("The story", "故事", 9, 8)

    await bridge.worker(stream=fail)
    stream = bridge.streaming(routes.CHAT_STREAM)
    for offset in (None, 0, 7, len(TEXT)):
        text, code = await read_and_fail(stream(chat("写"), metadata=asked("a", offset), timeout=10))
        assert (text, code) == (TEXT[offset or 0 :], grpc.StatusCode.RESOURCE_EXHAUSTED)


async def read_and_fail(call: Any) -> tuple[str, grpc.StatusCode]:
    text = ""
    try:
        async for chunk in call:
            text += chunk.delta
    except grpc.aio.AioRpcError as e:
        return text, e.code()
    raise AssertionError("it did not fail")


async def refused(bridge: Bridge, metadata: Metadata, route: Any = routes.CHAT_STREAM) -> Refusal:
    call = (bridge.streaming if route is routes.CHAT_STREAM else bridge.unary)(route)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await read_all(call(chat("写"), metadata=metadata, timeout=10))
    return Refusal.of(error.value)


async def read_all(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


async def test_more_than_there_is_cannot_be_had_already(bridge: Bridge) -> None:
    await bridge.worker(stream=speak)
    assert await read(bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=asked("a"), timeout=10)) == TEXT
    refusal = await refused(bridge, asked("a", len(TEXT) + 1))
    assert (refusal.code, refusal.fault.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_INCOMPLETE")


async def test_call_that_nobody_knows_is_not_begun_in_its_middle(bridge: Bridge) -> None:
    await bridge.worker(stream=speak)
    refusal = await refused(bridge, asked("never", 5))
    assert refusal.code is grpc.StatusCode.DATA_LOSS


NO_OFFSETS: dict[str, Metadata] = {
    "negative": asked("a", -1),
    "a word": (("x-request-id", "a"), (RESUME_KEY, "x")),
    "without an id": ((RESUME_KEY, "3"),),
}


@pytest.mark.parametrize("metadata", NO_OFFSETS.values(), ids=NO_OFFSETS)
async def test_offset_that_is_none_is_refused(bridge: Bridge, metadata: Metadata) -> None:
    refusal = await refused(bridge, metadata)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {field for field, _ in refusal.fault.violations} == {RESUME_KEY}


async def test_row_without_a_stream_has_no_offset(bridge: Bridge) -> None:
    refusal = await refused(bridge, asked("a", 3), routes.CHAT)
    assert {field for field, _ in refusal.fault.violations} == {RESUME_KEY}
