"""The same request again after a failure that waiting can mend, and what a unary row notes for whoever takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qingyu_ai import routes
from qingyu_ai.bus import topology
from qingyu_ai.bus.errors import Code, Expired, Fault, Lost, Overloaded, SameIdOtherBody
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.settings import MIB
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST
from tests.bus.system import System, close_system, echo, open_system, read, vanish
from tests.waiting import eventually


class Tiring:
    """A stream handler that says two deltas more at each attempt, then is tired, until all are said."""

    def __init__(self, deltas: int) -> None:
        self.deltas = deltas
        self.ran = 0
        self.orders: list[int] = []

    async def stream(self, call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        self.ran += 1
        call.follow_up = b"x"
        begun = "".join([chunk.delta for chunk in call.said]).count(",")
        for n in range(begun, min(begun + 2, self.deltas)):
            yield ai.ChatStreamChunk(delta=f"{n},")
        if begun + 2 < self.deltas:
            raise Overloaded("The model is tired", "模型累了")
        yield ai.ChatStreamChunk(is_final=True)

    async def follow_up(self, call: str, left: bytes, order: int) -> None:
        self.orders.append(order)


async def ask(system: System, **more: object) -> tuple[str, Code]:
    """The text and the code of one request under the id `mine`."""
    reading = await system.submit("x", stream=True, seconds=20, request_id="mine")
    try:
        text = await read(reading)
    finally:
        system.caller.close(reading)
    assert reading.end is not None
    return text, Fault.from_status(reading.end.status).code if reading.end.status else Code.OK


async def test_failure_that_waiting_can_mend_goes_on_when_it_is_asked_for_again(system: System) -> None:
    """Each request shows the whole text so far: the failure before is no end, and nothing is said twice."""
    tiring = Tiring(5)
    await system.worker(stream=tiring.stream, follow_up=tiring.follow_up, continues=True)
    assert await ask(system) == ("0,1,", Code.RESOURCE_EXHAUSTED)
    assert await ask(system) == ("0,1,2,3,", Code.RESOURCE_EXHAUSTED)
    assert await ask(system) == ("0,1,2,3,4,", Code.OK)
    assert await ask(system) == ("0,1,2,3,4,", Code.OK)
    assert tiring.ran == 3
    await eventually(lambda: len(tiring.orders) == 3)
    assert tiring.orders == sorted(tiring.orders)


async def test_another_bridge_reopens_as_well(system: System) -> None:
    tiring = Tiring(4)
    await system.worker(stream=tiring.stream, continues=True)
    assert await ask(system) == ("0,1,", Code.RESOURCE_EXHAUSTED)
    other = await open_system(system.connect, system.settings)
    await eventually(lambda: other.presence.has("chat"))
    assert await ask(other) == ("0,1,2,3,", Code.OK)
    await close_system(other)


async def test_failure_is_final_when_it_was_tried_again_often_enough(system: System) -> None:
    tiring = Tiring(99)
    await system.worker(stream=tiring.stream, continues=True)
    for n in range(FAST.retries + 3):
        text, code = await ask(system)
        assert (text.count(","), code) == (2 * min(n + 1, FAST.retries + 1), Code.RESOURCE_EXHAUSTED)
    assert tiring.ran == FAST.retries + 1


async def test_many_who_ask_again_at_once_share_one_attempt(system: System) -> None:
    tiring = Tiring(4)
    await system.worker(stream=tiring.stream, continues=True)
    other = await open_system(system.connect, system.settings)
    await eventually(lambda: other.presence.has("chat"))
    await ask(system)
    answers = await asyncio.gather(*[ask(one) for one in (system, other) for _ in range(50)])
    assert set(answers) == {("0,1,2,3,", Code.OK)}
    assert tiring.ran == 2
    await close_system(other)


async def test_many_who_ask_at_once_at_two_bridges_share_one_run(system: System) -> None:
    tiring = Tiring(2)
    await system.worker(stream=tiring.stream, continues=True)
    other = await open_system(system.connect, system.settings)
    await eventually(lambda: other.presence.has("chat"))
    answers = await asyncio.gather(*[ask(one) for one in (system, other) for _ in range(50)])
    assert set(answers) == {("0,1,", Code.OK)}
    assert tiring.ran == 1
    await close_system(other)


async def test_failed_call_is_not_reopened_for_another_body(system: System) -> None:
    tiring = Tiring(4)
    await system.worker(stream=tiring.stream, continues=True)
    await ask(system)
    with pytest.raises(SameIdOtherBody):
        await system.submit("y", stream=True, request_id="mine")


async def test_deadline_that_was_too_short_may_be_tried_again(system: System) -> None:
    release = asyncio.Event()

    async def slow(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        if not call.said:
            yield ai.ChatStreamChunk(delta="前")
        await release.wait()
        yield ai.ChatStreamChunk(delta="后")
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=slow, continues=True)
    reading = await system.submit("x", stream=True, seconds=0.5, request_id="mine")
    await reading.take()
    end = await reading.wait_end()
    system.caller.close(reading)
    assert Fault.from_status(end.status).code is Expired().code
    release.set()
    assert await ask(system) == ("前后", Code.OK)


# Notes of a unary row.


async def test_unary_answer_goes_on_from_its_notes_when_its_worker_is_lost(system: System) -> None:
    async def first(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        for n in range(3):
            await call.note(ai.ChatStreamChunk(delta=f"{n},"))
        noted.set()
        await asyncio.sleep(3600)
        raise AssertionError

    async def second(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        begun = "".join([chunk.delta for chunk in call.said])
        return ai.ChatResponse(message=common.Message(role="assistant", content=f"{begun}3"))

    noted = asyncio.Event()
    worker = await system.worker(chat=first, continues=True)
    reading = await system.submit("x", seconds=30, request_id="mine")
    await noted.wait()
    await vanish(worker)
    await system.worker(chat=second, continues=True)
    end = await reading.wait_end()
    system.caller.close(reading)
    assert ai.ChatResponse.FromString(end.answer).message.content == "0,1,2,3"
    assert (await system.chat("x", request_id="mine")).message.content == "0,1,2,3"


async def test_unary_answer_may_be_noted_in_more_parts_than_a_window_has(system: System) -> None:
    """Nobody grants credit for notes, because nobody shows them."""
    parts = 3 * FAST.window_frames

    async def much(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        for _ in range(parts):
            await call.note(ai.ChatStreamChunk(delta="字"))
            await asyncio.sleep(0)
        return ai.ChatResponse(message=common.Message(role="assistant", content="字" * parts))

    await system.worker(chat=much, continues=True)
    began = asyncio.get_running_loop().time()
    assert len((await system.chat("x", seconds=30)).message.content) == parts
    assert asyncio.get_running_loop().time() - began < 30


# A log or a queue that was lost.


async def test_call_whose_log_was_lost_runs_again_for_those_who_have_nothing_of_it(system: System) -> None:
    started = asyncio.Event()

    async def halting(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="旧")
        started.set()
        await asyncio.sleep(3600)

    async def whole(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        assert not call.said
        yield ai.ChatStreamChunk(delta="新")
        yield ai.ChatStreamChunk(is_final=True)

    worker = await system.worker(stream=halting, continues=True)
    reading = await system.submit("x", stream=True, seconds=20, request_id="mine")
    await reading.take()
    await started.wait()
    await vanish(worker)
    await lose(system, topology.LOG)
    await system.worker(stream=whole, continues=True)
    with pytest.raises(Lost):
        await read(reading)
    system.caller.close(reading)
    assert await ask(system) == ("新", Code.OK)
    body = system_body("x")
    envelope = system.envelope(routes.CHAT_STREAM, body, request_id="mine")
    with pytest.raises(Lost):
        await system.caller.submit(
            routes.CHAT_STREAM, routes.CHAT_STREAM.subject, body, envelope, chosen=True, begun=True
        )


def system_body(text: str) -> bytes:
    return ai.ChatRequest(messages=[common.Message(role="user", content=text)]).SerializeToString()


async def lose(system: System, stream: str) -> None:
    """Have a stream deleted and made anew."""
    bus = await system.connect()
    broker = getattr(bus, "_broker", None)
    if broker is not None:
        broker.lose(stream)
    else:
        await bus.jetstream.delete_stream(stream)  # type: ignore[attr-defined]
        await bus.ensure_topology(system.settings)  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"joined_readers": 2})])
async def test_readers_with_a_consumer_of_their_own_are_bounded(system: System, settings: BusSettings) -> None:
    release = asyncio.Event()

    async def halting(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="字")
        await release.wait()
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=halting)
    readings = [await system.submit("x", stream=True, request_id="mine")]
    await readings[0].take()
    readings += [await system.submit("x", stream=True, request_id="mine") for _ in range(2)]
    assert system.caller.readers.apart == 2
    with pytest.raises(Overloaded):
        await system.submit("x", stream=True, request_id="mine")
    release.set()
    for reading in readings:
        while await reading.take():
            pass
        system.caller.close(reading)
    assert system.caller.readers.apart == 0


async def test_reader_of_the_attempt_before_does_not_keep_the_next_one_from_being_stored(system: System) -> None:
    """A slow caller, who has not taken all of it yet, is not a request that stores a job."""
    tiring = Tiring(4)
    await system.worker(stream=tiring.stream, continues=True)
    slow = await system.submit("x", stream=True, seconds=20, request_id="mine")
    await eventually(lambda: slow.end is not None)
    slow.end = None  # as if the end had not been read yet
    assert await ask(system) == ("0,1,2,3,", Code.OK)
    system.caller.close(slow)


async def test_other_body_that_was_queued_at_the_same_time_does_not_get_the_answer(system: System) -> None:
    release = asyncio.Event()

    async def wait(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await release.wait()
        return await echo(call, request)

    await system.worker(chat=wait, slots=1)
    other = await open_system(system.connect, system.settings)
    await eventually(lambda: other.presence.has("chat"))
    blocking = await system.submit("before", seconds=20)
    first = await system.submit("one", seconds=20, request_id="mine")
    second = await other.submit("two", seconds=20, request_id="mine")
    release.set()
    end = await first.wait_end()
    assert ai.ChatResponse.FromString(end.answer).message.content == "one"
    with pytest.raises(SameIdOtherBody):
        await second.wait_end()
    for one, reading in ((system, blocking), (system, first), (other, second)):
        await asyncio.sleep(0)
        one.caller.close(reading)
    await close_system(other)


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"queue_bytes": MIB})])
async def test_all_who_wait_for_a_job_that_was_refused_are_told(system: System, settings: BusSettings) -> None:
    async def never(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    await system.worker(chat=never, slots=1)
    readings = [await system.submit("长" * 100_000, seconds=20, request_id=f"r{n}") for n in range(4)]
    joined = [await system.submit("长" * 100_000, seconds=20, request_id="r3") for _ in range(3)]
    for reading in (readings[3], *joined):
        with pytest.raises(Overloaded):
            await asyncio.wait_for(reading.wait_end(), 5)
    for reading in (*readings, *joined):
        system.caller.close(reading)
