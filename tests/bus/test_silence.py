"""Workers that think long, vanish or are not heard, and slow readers, on the in-memory twin and a real nats-server alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST
from tests.bus.system import Connect, System, close_system, echo, open_system, read, spell, stopped_stream, vanish
from tests.waiting import eventually

NOVEL = "却说黛玉听见宝玉的话，心中一酸，滴下泪来。" * 20


async def test_worker_that_thinks_long_beats_and_is_not_taken_for_dead(system: System) -> None:
    async def think(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await asyncio.sleep(FAST.lease_seconds * 2.5)
        return await echo(call, request)

    await system.worker(chat=think)
    assert (await system.chat("想好了吗", seconds=30)).message.content == "想好了吗"


async def test_stream_of_a_vanished_worker_goes_on_at_another_without_a_gap_or_a_repeat(system: System) -> None:
    """Also what the vanished one stored while nobody heard it is part of the text, and what it says later is not."""
    said_late = asyncio.Event()
    taken_over = asyncio.Event()

    async def first(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for n in range(5):
            yield ai.ChatStreamChunk(delta=f"{n},")
        await taken_over.wait()
        for _ in range(5):
            yield ai.ChatStreamChunk(delta="不该出现")
            await asyncio.sleep(0)
        said_late.set()
        yield ai.ChatStreamChunk(is_final=True)

    async def second(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        begun = "".join([chunk.delta for chunk in call.said])
        taken_over.set()
        await said_late.wait()
        for n in range(begun.count(","), 9):
            yield ai.ChatStreamChunk(delta=f"{n},")
        yield ai.ChatStreamChunk(is_final=True)

    worker = await system.worker(stream=first, continues=True)
    reading = await system.submit("x", stream=True, seconds=60)
    await reading.take()
    await vanish(worker)
    await system.worker(stream=second, continues=True)
    rest = await read(reading)
    system.caller.close(reading)
    assert "不该出现" not in rest
    replay = await system.submit("x", stream=True, seconds=60, request_id=reading.request_id)
    assert await read(replay) == "0,1,2,3,4,5,6,7,8,"
    system.caller.close(replay)


async def test_handler_that_cannot_go_on_ends_what_another_had_begun(system: System) -> None:
    ended = asyncio.Event()
    await stopped_stream(system, ended)
    reading = await system.submit("x", stream=True, seconds=60)
    await reading.take()
    await vanish(system.workers[0])
    await stopped_stream(system, asyncio.Event())
    end = await reading.wait_end()
    system.caller.close(reading)
    lost = Fault.from_status(end.status)
    assert (lost.code, lost.reason) == (Code.UNAVAILABLE, "WORKER_LOST")
    assert lost.retry_seconds is None  # the same id would find the same


async def test_job_whose_worker_vanished_before_it_said_anything_runs_again(system: System) -> None:
    started = asyncio.Event()

    async def hang(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        started.set()
        await asyncio.sleep(3600)
        raise AssertionError

    first = await system.worker(chat=hang)
    reading = await system.submit("还在吗", seconds=30)
    await started.wait()
    await vanish(first)
    await system.worker(chat=echo)
    end = await reading.wait_end()
    system.caller.close(reading)
    assert ai.ChatResponse.FromString(end.answer).message.content == "还在吗"


async def test_slow_reader_holds_a_window_and_still_gets_everything(system: System) -> None:
    text = NOVEL * 2

    async def fast(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for character in text:
            yield ai.ChatStreamChunk(delta=character)
            await asyncio.sleep(0.0005)
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=fast)
    settings = system.settings.model_copy(update={"window_frames": 16})
    reading = await system.submit("x", stream=True, seconds=60)
    reading._settings = settings
    received = []
    while taken := await reading.take():
        assert len(taken) <= 16 + 256
        received += [ai.ChatStreamChunk.FromString(encoded).delta for encoded, _ in taken]
        await asyncio.sleep(0.004)
        assert len(reading._held) <= 16 + 256
        system.caller.credit(reading)
    system.caller.close(reading)
    assert "".join(received) == text


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"window_frames": 8})])
async def test_credit_slows_the_worker_to_its_readers_pace(connect: Connect, settings: BusSettings) -> None:
    system = await open_system(connect, settings)
    said = 0

    async def count(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        nonlocal said
        for _ in range(100):
            said += 1
            yield ai.ChatStreamChunk(delta="字")
            await asyncio.sleep(0)
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=count)
    reading = await system.submit("x", stream=True, seconds=60)
    await eventually(lambda: said >= 8)
    await asyncio.sleep(0.3)  # less than a lease, in which an unread stream must not go on
    assert said <= 9
    received = ""
    while taken := await reading.take():
        received += "".join(ai.ChatStreamChunk.FromString(encoded).delta for encoded, _ in taken)
        system.caller.credit(reading)
    system.caller.close(reading)
    assert received == "字" * 100
    await close_system(system)


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"window_frames": 8})])
async def test_worker_without_credit_for_a_lease_goes_on_into_the_log(connect: Connect, settings: BusSettings) -> None:
    system = await open_system(connect, settings)
    finished = asyncio.Event()

    async def count(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for _ in range(20):
            yield ai.ChatStreamChunk(delta="字")
        yield ai.ChatStreamChunk(is_final=True)
        finished.set()

    await system.worker(stream=count)
    reading = await system.submit("x", stream=True, seconds=60)
    await asyncio.wait_for(finished.wait(), 20)
    assert await read(reading) == "字" * 20
    system.caller.close(reading)
    await close_system(system)


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"call_log_bytes": 4096})])
async def test_call_that_uses_up_its_log_ends_with_a_status(connect: Connect, settings: BusSettings) -> None:
    system = await open_system(connect, settings)

    async def flood(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        while True:
            yield ai.ChatStreamChunk(delta="字" * 100)
            await asyncio.sleep(0)

    await system.worker(stream=flood)
    reading = await system.submit("x", stream=True)
    text = await read(reading)
    system.caller.close(reading)
    assert 3000 < len(text.encode()) <= 4096
    assert reading.end is not None
    assert Fault.from_status(reading.end.status).code is Code.RESOURCE_EXHAUSTED
    await close_system(system)


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"window_frames": 4})])
async def test_smallest_windows_still_get_credit(connect: Connect, settings: BusSettings) -> None:
    system = await open_system(connect, settings)
    await system.worker(stream=spell)
    reading = await system.submit(NOVEL[:40], stream=True)
    began = time.monotonic()
    text = ""
    while taken := await reading.take():
        text += "".join(ai.ChatStreamChunk.FromString(encoded).delta for encoded, _ in taken)
        system.caller.credit(reading)
    assert text == NOVEL[:40]
    assert time.monotonic() - began < settings.lease_seconds * 3
    system.caller.close(reading)
    await close_system(system)
