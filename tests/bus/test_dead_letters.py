"""Jobs over which workers are lost, and jobs that meet a defect of ours: put aside, told of, tried again by an operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus.dead import DeadLetters, Letter, NotDead
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST
from tests.bus.system import System, echo, spell, vanish
from tests.waiting import eventually

SHORT = FAST.model_copy(
    update={"ack_wait_seconds": 0.5, "in_progress_seconds": 0.1, "attempts": 3, "suspect_seconds": 0.1}
)


@pytest.fixture
def settings() -> BusSettings:
    return SHORT


async def letters_of(system: System) -> tuple[DeadLetters, list[Letter]]:
    bus = await system.connect()
    letters = DeadLetters(bus, Records(bus, system.settings), system.settings)
    return letters, await letters.read()


async def test_job_that_ends_every_worker_is_put_aside_once_and_its_caller_told(system: System) -> None:
    claimed: asyncio.Queue[Worker] = asyncio.Queue()
    workers: list[Worker] = []

    async def deadly(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        if not call.said:
            yield ai.ChatStreamChunk(delta="前")
        await claimed.put(workers[-1])
        await asyncio.sleep(3600)

    workers.append(await system.worker(stream=deadly, continues=True))
    reading = await system.submit("x", stream=True, seconds=60, request_id="mine")
    for _ in range(SHORT.attempts):
        await vanish(await claimed.get())
        workers.append(await system.worker(stream=deadly, continues=True))
    assert [ai.ChatStreamChunk.FromString(c).delta for c, _ in await reading.take()] == ["前"]
    end = await reading.wait_end()
    system.caller.close(reading)
    fault = Fault.from_status(end.status)
    assert (fault.code, fault.reason, fault.retry_seconds) == (Code.INTERNAL, "DEAD_LETTER", None)
    _, [letter] = await letters_of(system)
    assert letter.call == reading.call
    assert letter.content.deaths == SHORT.attempts
    assert [claim.worker for claim in letter.content.claims] == [w.token for w in workers]
    # What its caller had stays, and asking again runs nothing.
    again = await system.submit("x", stream=True, request_id="mine")
    assert [ai.ChatStreamChunk.FromString(c).delta for c, _ in await again.take()] == ["前"]
    assert (await again.wait_end()).status == end.status
    system.caller.close(again)
    assert claimed.empty()


async def test_defect_of_ours_is_put_aside_at_once(system: System) -> None:
    """Running it again would cost the same and end the same."""
    ran = 0

    async def defect(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal ran
        ran += 1
        raise ZeroDivisionError

    await system.worker(chat=defect)
    reading = await system.submit("x", seconds=10)
    fault = Fault.from_status((await reading.wait_end()).status)
    system.caller.close(reading)
    assert fault.code is Code.INTERNAL
    _, [letter] = await letters_of(system)
    assert letter.content.reason == fault.message
    assert ran == 1


async def test_operator_has_a_job_tried_again_and_its_caller_finds_the_answer(system: System) -> None:
    mended = False

    async def once_defect(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        if not mended:
            raise ZeroDivisionError
        return await echo(call, request)

    await system.worker(chat=once_defect)
    reading = await system.submit("还在", seconds=10, request_id="mine")
    assert (await reading.wait_end()).status
    system.caller.close(reading)
    letters, [letter] = await letters_of(system)
    mended = True
    await letters.replay(letter)
    assert await letters.read() == []
    assert (await system.chat("还在", request_id="mine")).message.content == "还在"
    with pytest.raises(NotDead):
        await letters.replay(letter)


async def test_suspect_runs_alone_and_its_neighbours_are_not_put_aside(system: System) -> None:
    """From the second lost worker on nothing runs beside it, so nobody else is lost with it."""
    hanging = asyncio.Event()
    beside: list[int] = []
    current: list[Worker] = []
    runs = 0

    async def serve(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        nonlocal runs
        if request.messages[-1].content != "毒":
            async for chunk in spell(call, request):
                yield chunk
                await asyncio.sleep(0.05)
            return
        runs += 1
        beside.append(current[-1].running - 1)
        hanging.set()
        await asyncio.sleep(3600)

    async def another() -> None:
        current.append(await system.worker(stream=serve, continues=False))

    await another()
    poison = await system.submit("毒", stream=True, seconds=60)
    while poison.end is None:
        # On a busy machine it may wait in vain to be alone, and then that lost worker does not count.
        await eventually(lambda: hanging.is_set() or poison.end is not None, timeout=20)
        hanging.clear()
        await vanish(current[-1])
        innocents = [asyncio.create_task(system.stream("无辜的人说了很长的话", seconds=60)) for _ in range(3)]
        await another()
        assert await asyncio.gather(*innocents) == ["无辜的人说了很长的话"] * 3
    end = await poison.wait_end()
    system.caller.close(poison)
    assert Fault.from_status(end.status).reason == "DEAD_LETTER"
    assert runs >= SHORT.attempts
    assert beside[-1] == 0
    _, letters = await letters_of(system)
    assert [letter.call for letter in letters] == [poison.call]
    await eventually(lambda: not len(current[-1].jobs.suspects))


async def test_two_suspects_wait_for_each_other_and_are_put_aside_both(system: System) -> None:
    """After two lost workers all that ran there are suspects, and come back together."""
    running: set[str] = set()
    beside: list[set[str]] = []
    current: list[Worker] = []

    async def deadly(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        beside.append(set(running))
        running.add(call.id)
        await asyncio.sleep(3600)
        yield ai.ChatStreamChunk(is_final=True)

    current.append(await system.worker(stream=deadly))
    readings = [await system.submit(text, stream=True, seconds=60) for text in "甲乙"]
    while not all(reading.end is not None for reading in readings):
        await eventually(lambda: bool(running) or all(r.end is not None for r in readings), timeout=20)
        await asyncio.sleep(0.2)  # whatever comes beside it has come
        running.clear()
        await vanish(current[-1])
        current.append(await system.worker(stream=deadly))
    for reading in readings:
        assert reading.end is not None
        assert Fault.from_status(reading.end.status).reason == "DEAD_LETTER"
        system.caller.close(reading)
    _, letters = await letters_of(system)
    assert {letter.call for letter in letters} == {reading.call for reading in readings}
