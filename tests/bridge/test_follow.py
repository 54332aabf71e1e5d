"""A stream can be read on by whoever may, without what was asked for in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from bridge.admission import FOLLOW_KEY, RESUME_KEY
from qingyu_ai import routes
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from tests.bridge.conftest import Bridge, Metadata, Refusal, chat
from tests.bridge.test_resume import TEXT, asked, read, read_all, speak
from tests.waiting import eventually


def nothing(user: str = "") -> ai.ChatRequest:
    return ai.ChatRequest(metadata=common.Metadata(user_id=user))


def following(request_id: str, offset: int | None = None) -> Metadata:
    return (*asked(request_id, offset), (FOLLOW_KEY, "true"))


async def refused(bridge: Bridge, request: ai.ChatRequest, metadata: Metadata) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await read_all(bridge.streaming(routes.CHAT_STREAM)(request, metadata=metadata, timeout=10))
    return Refusal.of(error.value)


async def test_finished_stream_is_read_on_from_any_offset_at_another_bridge(bridge: Bridge) -> None:
    await bridge.worker(stream=speak)
    assert await read(bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=asked("a"), timeout=10)) == TEXT
    async with bridge.second() as other:
        for offset in (None, 0, 7, len(TEXT)):
            stream = other.streaming(routes.CHAT_STREAM)(nothing(), metadata=following("a", offset), timeout=10)
            assert await read(stream) == TEXT[offset or 0 :]


async def test_running_stream_is_followed_to_its_end_without_being_run_again(bridge: Bridge) -> None:
    release, ran = asyncio.Event(), 0

    async def pause(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        nonlocal ran
        ran += 1
        yield ai.ChatStreamChunk(delta="前")
        await release.wait()
        yield ai.ChatStreamChunk(delta="后")
        yield ai.ChatStreamChunk(is_final=True)

    await bridge.worker(stream=pause)
    stream = bridge.streaming(routes.CHAT_STREAM)
    first = asyncio.create_task(read(stream(chat("写"), metadata=asked("a"), timeout=10)))
    await eventually(lambda: ran)
    second = asyncio.create_task(read(stream(nothing(), metadata=following("a", 1), timeout=10)))
    await eventually(lambda: len(bridge.caller.readers) == 2)
    release.set()
    assert (await first, await second, ran) == ("前后", "后", 1)


async def test_call_that_waits_for_its_first_worker_is_followed_too(bridge: Bridge) -> None:
    release = asyncio.Event()

    async def wait(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        await release.wait()
        async for chunk in speak(call, request):
            yield chunk

    await bridge.worker(stream=wait, slots=1)
    stream = bridge.streaming(routes.CHAT_STREAM)
    busy = asyncio.create_task(read(stream(chat("占"), metadata=asked("busy"), timeout=10)))
    queued = asyncio.create_task(read(stream(chat("写"), metadata=asked("a"), timeout=10)))
    await eventually(lambda: len(bridge.caller.readers) == 2)
    followed = asyncio.create_task(read(stream(nothing(), metadata=following("a"), timeout=10)))
    await eventually(lambda: bridge.edge.open == 3)
    release.set()
    assert [await task for task in (busy, queued, followed)] == [TEXT] * 3


async def test_call_that_is_not_there_is_not_made(bridge: Bridge) -> None:
    await bridge.worker(stream=speak)
    refusal = await refused(bridge, nothing(), following("never"))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert await read(bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=asked("never"), timeout=10)) == TEXT


async def test_nobody_follows_the_call_of_another_user(bridge: Bridge) -> None:
    await bridge.worker(stream=speak)
    mine = chat("写", metadata=common.Metadata(user_id="me"))
    assert await read(bridge.streaming(routes.CHAT_STREAM)(mine, metadata=asked("a"), timeout=10)) == TEXT
    for user in ("you", ""):
        assert (await refused(bridge, nothing(user), following("a"))).code is grpc.StatusCode.NOT_FOUND
    stream = bridge.streaming(routes.CHAT_STREAM)(nothing("me"), metadata=following("a"), timeout=10)
    assert await read(stream) == TEXT


@pytest.mark.parametrize(
    "metadata",
    [((FOLLOW_KEY, "yes"), ("x-request-id", "a")), ((FOLLOW_KEY, "true"),)],
    ids=["another word", "without an id"],
)
async def test_what_is_no_following_is_refused(bridge: Bridge, metadata: Metadata) -> None:
    refusal = await refused(bridge, nothing(), metadata)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {field for field, _ in refusal.fault.violations} == {FOLLOW_KEY}


async def test_row_without_a_stream_cannot_be_followed(bridge: Bridge) -> None:
    refusal = await bridge.refused(routes.CHAT, chat("写"), metadata=following("a"))
    assert {field for field, _ in refusal.fault.violations} == {FOLLOW_KEY}


async def test_offset_and_following_go_together(bridge: Bridge) -> None:
    await bridge.worker(stream=speak)
    assert await read(bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=asked("a"), timeout=10)) == TEXT
    refusal = await refused(bridge, nothing(), (*following("a"), (RESUME_KEY, str(len(TEXT) + 1))))
    assert refusal.code is grpc.StatusCode.DATA_LOSS
