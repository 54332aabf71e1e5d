"""The same request again, at one bridge and at two, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus.errors import Cancelled, Code, Fault, SameIdOtherBody
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bus.conftest import FAST
from tests.bus.system import System, close_system, echo, open_system, read, spell
from tests.waiting import eventually

NOVEL = "却说黛玉听见宝玉的话，心中一酸，滴下泪来。" * 20


async def test_known_id_is_answered_from_its_record_without_running_again(system: System) -> None:
    ran = 0

    async def count(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal ran
        ran += 1
        return await echo(call, request)

    await system.worker(chat=count)
    for _ in range(3):
        assert (await system.chat("你好", request_id="mine")).message.content == "你好"
    assert ran == 1


async def test_known_id_of_another_user_is_another_call(system: System) -> None:
    await system.worker(chat=echo)
    assert (await system.chat("甲的话", request_id="mine", user="甲")).message.content == "甲的话"
    assert (await system.chat("乙的话", request_id="mine", user="乙")).message.content == "乙的话"


async def test_known_id_with_another_body_is_refused(system: System) -> None:
    await system.worker(chat=echo)
    await system.chat("one", request_id="mine")
    with pytest.raises(SameIdOtherBody):
        await system.submit("two", request_id="mine")


async def test_finished_stream_is_read_again_from_its_log(system: System) -> None:
    await system.worker(stream=spell)
    assert await system.stream(NOVEL, request_id="mine") == NOVEL
    assert await system.stream(NOVEL, request_id="mine") == NOVEL


async def test_second_reader_joins_a_running_stream_from_its_start(system: System) -> None:
    release = asyncio.Event()

    async def halting(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="前")
        await release.wait()
        yield ai.ChatStreamChunk(delta="后")
        yield ai.ChatStreamChunk(is_final=True)

    worker = await system.worker(stream=halting)
    first = await system.submit("x", stream=True, request_id="mine")
    await first.take()
    second = await system.submit("x", stream=True, request_id="mine")
    release.set()
    assert await read(second) == "前后"
    system.caller.close(first)
    system.caller.close(second)
    await eventually(lambda: worker.running == 0)


async def test_two_messages_of_one_call_run_once(system: System) -> None:
    ran = 0
    release = asyncio.Event()

    async def count(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal ran
        ran += 1
        await release.wait()
        return await echo(call, request)

    await system.worker(chat=count)
    # Both look before either is claimed, as two bridges may.
    readings = await asyncio.gather(*(system.submit("x", request_id="mine") for _ in range(2)))
    await eventually(lambda: ran == 1)
    release.set()
    answers = {(await r.wait_end()).answer for r in readings}
    for reading in readings:
        system.caller.close(reading)
    assert len(answers) == 1
    assert ran == 1


async def second_bridge(system: System) -> System:
    """Another bridge on the same broker."""
    other = await open_system(system.connect, system.settings)
    await eventually(lambda: other.presence.has("chat"))
    return other


async def test_second_message_of_a_call_takes_nothing_from_the_run_that_has_it(system: System) -> None:
    """Beats, in-progress signs, credit and cancel still reach the first run, however long it takes."""
    ran = 0

    async def slow(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal ran
        ran += 1
        await asyncio.sleep(FAST.ack_wait_seconds * 2.5)
        return await echo(call, request)

    await system.worker(chat=slow)
    other = await second_bridge(system)
    readings = await asyncio.gather(
        system.submit("x", request_id="mine", seconds=30), other.submit("x", request_id="mine", seconds=30)
    )
    answers = [(await r.wait_end()).answer for r in readings]
    system.caller.close(readings[0])
    other.caller.close(readings[1])
    assert [ai.ChatResponse.FromString(a).message.content for a in answers] == ["x", "x"]
    assert ran == 1
    await close_system(other)


async def test_stream_asked_for_at_two_bridges_at_once_arrives_whole_at_both(system: System) -> None:
    release = asyncio.Event()

    async def halting(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="前")
        await release.wait()
        yield ai.ChatStreamChunk(delta="后")
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=halting)
    other = await second_bridge(system)
    readings = await asyncio.gather(
        system.submit("x", stream=True, request_id="mine", seconds=30),
        other.submit("x", stream=True, request_id="mine", seconds=30),
    )
    texts = [asyncio.create_task(read(r)) for r in readings]
    await eventually(lambda: all(r.heard_anything for r in readings))
    release.set()
    assert await asyncio.gather(*texts) == ["前后", "前后"]
    system.caller.close(readings[0])
    other.caller.close(readings[1])
    await close_system(other)


async def test_two_bodies_with_one_id_at_once_are_not_answered_alike(system: System) -> None:
    await system.worker(chat=echo)
    first = await system.submit("one", request_id="mine")
    with pytest.raises(SameIdOtherBody):
        await system.submit("two", request_id="mine")
    await first.wait_end()
    system.caller.close(first)


async def test_cancelled_queued_call_answers_the_same_request_with_cancelled(system: System) -> None:
    release = asyncio.Event()

    async def wait(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await release.wait()
        return await echo(call, request)

    worker = await system.worker(chat=wait, slots=1)
    first = await system.submit("first", seconds=60)
    await eventually(lambda: worker.running == 1)
    queued = await system.submit("second", seconds=60, request_id="mine")
    system.caller.close(queued, Cancelled())
    await eventually(lambda: not system.caller.readers.tasks)
    again = await system.submit("second", seconds=60, request_id="mine")
    end = await again.wait_end()
    system.caller.close(again)
    assert Fault.from_status(end.status).code is Code.CANCELLED
    release.set()
    await first.wait_end()
    system.caller.close(first)
