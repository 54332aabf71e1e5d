"""Each bound is reached: what is beyond it is refused with a word and a delay, and a metric shows it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bridge.admission import LINGER_KEY
from qingyu_ai import routes
from qingyu_ai.bus import subjects, topology
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.settings import KIB, MIB
from tests.bridge.conftest import Bridge, chat
from tests.bus.conftest import FAST
from tests.bus.system import vanish
from tests.waiting import eventually

PIECE = b"x" * 102 * 1024


class Holding:
    """Says a word and holds the stream open."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.stopped = 0

    async def stream(self, call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        try:
            yield ai.ChatStreamChunk(delta="字")
            await self.release.wait()
            yield ai.ChatStreamChunk(is_final=True)
        finally:
            self.stopped += 1


async def fill(bridge: Bridge, subject: str, pieces: int) -> None:
    """Put pieces of 102 KiB into a stream, each on a subject of its own."""
    for _ in range(pieces):
        await bridge.bus.store(subject.replace("*", secrets.token_hex(16)), PIECE, timeout=5)


def shown(bridge: Bridge, name: str, **labels: str) -> float:
    """The value of a metric."""
    value = bridge.registry.get_sample_value(name, labels)
    assert value is not None, name
    return value


async def read_all(call: Any, seen: list[str] | None = None) -> None:
    """Read to the end, noting what is said."""
    while (chunk := await call.read()) is not grpc.aio.EOF:
        if seen is not None:
            seen.append(chunk.delta)


async def refuses(bridge: Bridge, words: str) -> None:
    """A new chat is refused for want of room, and told when to come again."""
    refusal = await bridge.refused(routes.CHAT, chat("写"))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert words in refusal.message
    assert refusal.fault.retry_seconds is not None


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"queue_bytes": MIB})])
async def test_queue_that_is_full_refuses_and_takes_again_what_it_has_given_out(bridge: Bridge) -> None:
    release = asyncio.Event()

    async def wait(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await release.wait()
        return ai.ChatResponse()

    await bridge.worker(chat=wait, slots=1)
    asked = [asyncio.ensure_future(bridge.unary(routes.CHAT)(chat("长" * 60_000), timeout=30)) for _ in range(5)]
    await eventually(lambda: shown(bridge, "qingyu_stream_bytes", stream="AI_CHAT") > 800_000)
    refusal = await bridge.refused(routes.CHAT, chat("长" * 60_000))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.fault.retry_seconds is not None
    assert shown(bridge, "qingyu_stream_max_bytes", stream="AI_CHAT") == MIB
    release.set()
    await asyncio.gather(*asked)
    await bridge.unary(routes.CHAT)(chat("长" * 60_000), timeout=10)


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"record_bytes": MIB})])
async def test_bucket_of_records_that_is_full_refuses_new_calls(bridge: Bridge) -> None:
    await bridge.worker()
    await bridge.unary(routes.CHAT)(chat("写"), timeout=10)
    await fill(bridge, topology.call_key("*"), 10)
    await eventually(lambda: shown(bridge, "qingyu_stream_bytes", stream="KV_ai_calls") > 1_000_000)
    await refuses(bridge, "records is full")


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"log_bytes": MIB})])
async def test_log_refuses_new_calls_before_it_would_drop_the_head_of_an_open_one(bridge: Bridge) -> None:
    """Also of one that another bridge reads."""
    holding = Holding()
    await bridge.worker(stream=holding.stream)
    call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), timeout=30)
    assert (await call.read()).delta == "字"
    await fill(bridge, subjects.log("chat", "other", "*"), 10)
    async with bridge.second() as other:
        await eventually(lambda: shown(other, "qingyu_stream_bytes", stream="AI_LOG") > 900_000)
        gauges = [one.caller.readers.gauge for one in (other, bridge)]  # each looks once a second
        await eventually(lambda: not any(gauge.log_has_room for gauge in gauges))
        await refuses(other, "log of running calls is full")
        await refuses(bridge, "log of running calls is full")
        holding.release.set()
        while await call.read() is not grpc.aio.EOF:
            pass
        # Nobody needs what is left in the log, as soon as it is older than any call that could begin now.
        await eventually(lambda: other.caller.readers.gauge.log_has_room, timeout=15)
        await other.unary(routes.CHAT)(chat("写"), timeout=10)


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"lingering_calls": 1})])
async def test_only_so_many_calls_linger(bridge: Bridge) -> None:
    holding = Holding()
    await bridge.worker(stream=holding.stream)
    for _ in range(3):
        call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=((LINGER_KEY, "60000"),), timeout=30)
        assert (await call.read()).delta == "字"
        call.cancel()
    await eventually(lambda: holding.stopped == 2)
    assert shown(bridge, "qingyu_bridge_lingering") == 1
    holding.release.set()


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"dead_letter_bytes": MIB})])
async def test_letter_without_room_is_counted_and_its_caller_is_told_all_the_same(bridge: Bridge) -> None:
    async def defect(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        raise ZeroDivisionError

    worker = await bridge.worker(chat=defect)
    await fill(bridge, subjects.dead("chat", "*", 0), 10)
    refusal = await bridge.refused(routes.CHAT, chat("长" * 30_000))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert (worker.jobs.dead_letters.stored, worker.jobs.dead_letters.lost) == (0, 1)


async def test_what_is_held_for_slow_callers_is_shown(bridge: Bridge) -> None:
    """And it is bounded: a window for each call."""

    async def much(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for _ in range(100):
            yield ai.ChatStreamChunk(delta="字" * 10_000)
        yield ai.ChatStreamChunk(is_final=True)

    await bridge.worker(stream=much)
    call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), timeout=30)
    await call.read()
    await eventually(lambda: shown(bridge, "qingyu_bridge_readers") == 1)
    while await call.read() is not grpc.aio.EOF:
        assert shown(bridge, "qingyu_bridge_held_bytes") <= 2 * FAST.window_bytes
    for name in ("joined_readers", "tasks", "lingering", "held_bytes"):
        assert shown(bridge, f"qingyu_bridge_{name}") == 0
    await eventually(lambda: shown(bridge, "qingyu_bridge_bus_requests") == 0)


@pytest.mark.parametrize(
    "bus_settings", [FAST.model_copy(update={"default_deadline_seconds": 1.0, "call_log_bytes": 64 * MIB})]
)
async def test_call_of_a_caller_who_has_no_deadline_and_reads_no_more_ends_like_any_other(bridge: Bridge) -> None:
    """gRPC itself holds one message for such a caller, and the status behind it, until it reads or leaves."""

    async def much(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        while True:
            yield ai.ChatStreamChunk(delta="字" * 10_000)

    await bridge.worker(stream=much)
    call = bridge.streaming(routes.CHAT_STREAM)(chat("写"))
    await call.read()
    assert bridge.edge.open == 1
    await eventually(lambda: not len(bridge.caller.readers), timeout=15)
    with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
        await read_all(call)
    await eventually(lambda: bridge.edge.open == 0)


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"call_log_bytes": 64 * KIB})])
async def test_answer_that_is_too_long_is_not_asked_for_again(bridge: Bridge) -> None:
    runs = 0

    async def much(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        nonlocal runs
        runs += 1
        while True:
            yield ai.ChatStreamChunk(delta="x" * 1000)

    await bridge.worker(stream=much)
    seen: list[str] = []
    for _ in range(2):
        call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=(("x-request-id", "a"),), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError, match="The answer is 66198 bytes; the limit is 65536"):
            await read_all(call, seen)
    assert (runs, "".join(seen)) == (1, "x" * 2 * 65_000)


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"log_bytes": MIB})])
@pytest.mark.parametrize("resumes", [True, False])
async def test_text_whose_head_a_full_log_has_dropped_is_not_joined_to_another(bridge: Bridge, resumes: bool) -> None:
    """Its worker dies, and the next one finds nothing of it: calls that were open already have filled the log."""

    async def begins(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="甲甲甲")
        await asyncio.sleep(60)

    async def goes_on(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        if not call.said:
            yield ai.ChatStreamChunk(delta="乙乙乙乙乙乙")
        yield ai.ChatStreamChunk(is_final=True)

    first = await bridge.worker(stream=begins, continues=True)
    named = (("x-request-id", "a"), (LINGER_KEY, "60000"))
    call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=named, timeout=40)
    assert (await call.read()).delta == "甲甲甲"
    await vanish(first)
    if resumes:
        call.cancel()
    await fill(bridge, subjects.log("chat", "other", "*"), 12)
    await bridge.worker(stream=goes_on, continues=True)
    async with bridge.second() as other:
        await eventually(lambda: other.presence.has("chat"))
        if resumes:
            metadata = (("x-request-id", "a"), ("x-resume-from", "3"))
            call = other.streaming(routes.CHAT_STREAM)(chat("写"), metadata=metadata, timeout=20)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await read_all(call)
        assert await call.code() is grpc.StatusCode.DATA_LOSS
