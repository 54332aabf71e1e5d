"""How a job ends: its deadline, its caller, its commit, a worker that stops. On the in-memory twin and a real nats-server."""

from __future__ import annotations

import asyncio

from qingyu_ai.bus.errors import Cancelled, Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.records import Records
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bus.system import System, echo, read, stopped_stream
from tests.waiting import eventually


async def test_cancel_decides_the_record_and_stops_the_handler(system: System) -> None:
    ended = asyncio.Event()
    await stopped_stream(system, ended)
    reading = await system.submit("x", stream=True, seconds=60)
    await reading.take()
    system.caller.close(reading, Cancelled())
    await asyncio.wait_for(ended.wait(), 5)
    entry = await Records(system.buses[0], system.settings).read(reading.call)
    assert entry is not None
    assert entry.done
    assert Fault.from_status(entry.record.end.status).code is Code.CANCELLED
    await eventually(lambda: system.workers[0].running == 0)


async def test_cancel_of_a_queued_job_means_it_never_runs(system: System) -> None:
    release = asyncio.Event()
    ran: list[str] = []

    async def slow(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        ran.append(request.messages[-1].content)
        await release.wait()
        return await echo(call, request)

    worker = await system.worker(chat=slow, slots=1)
    first = await system.submit("first", seconds=60)
    await eventually(lambda: ran == ["first"])
    second = await system.submit("second", seconds=60)
    system.caller.close(second, Cancelled())
    await eventually(lambda: not system.caller.readers.tasks)
    release.set()
    await first.wait_end()
    system.caller.close(first)
    third = await system.submit("third", seconds=60)
    await third.wait_end()
    system.caller.close(third)
    assert ran == ["first", "third"]
    await eventually(lambda: worker.running == 0)


async def test_worker_stops_at_the_deadline_by_itself(system: System) -> None:
    ended = asyncio.Event()
    await stopped_stream(system, ended)
    reading = await system.submit("x", stream=True, seconds=0.5)
    assert await read(reading) == "开头"
    system.caller.close(reading)
    assert ended.is_set()
    assert reading.end is not None
    assert Fault.from_status(reading.end.status).code is Code.DEADLINE_EXCEEDED


async def test_job_that_expired_in_the_queue_is_decided_unexecuted(system: System) -> None:
    ran: list[str] = []

    async def note(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        ran.append(request.messages[-1].content)
        return await echo(call, request)

    await system.worker(chat=note)
    reading = await system.submit("late", seconds=0)
    end = await reading.wait_end()
    system.caller.close(reading)
    assert Fault.from_status(end.status).code is Code.DEADLINE_EXCEEDED
    assert not ran


async def test_follow_up_runs_after_the_commit_with_what_the_handler_left(system: System) -> None:
    done: list[tuple[str, bytes]] = []

    async def leave(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        call.follow_up = "记住".encode()
        return await echo(call, request)

    async def follow_up(call: str, left: bytes, order: int) -> None:
        entry = await Records(system.buses[0], system.settings).read(call)
        assert entry is not None
        assert entry.done
        done.append((call, left))

    await system.worker(chat=leave, follow_up=follow_up)
    reading = await system.submit("x")
    await reading.wait_end()
    system.caller.close(reading)
    await eventually(lambda: done == [(reading.call, "记住".encode())])


async def test_follow_up_that_fails_is_tried_again(system: System) -> None:
    tries = 0

    async def leave(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        call.follow_up = b"x"
        return await echo(call, request)

    async def follow_up(call: str, left: bytes, order: int) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("not yet")

    await system.worker(chat=leave, follow_up=follow_up)
    assert (await system.chat("x")).message.content == "x"
    await eventually(lambda: tries == 2)


async def test_draining_worker_finishes_what_runs_and_takes_nothing_new(system: System) -> None:
    release, started = asyncio.Event(), asyncio.Event()

    async def slow(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        started.set()
        await release.wait()
        return await echo(call, request)

    first = await system.worker(chat=slow)
    reading = await system.submit("慢", seconds=30)
    await started.wait()
    draining = asyncio.create_task(first.drain(10))
    await eventually(lambda: first.draining and not first._announcement._interests)
    await system.worker(chat=echo)
    assert (await system.chat("快", seconds=30)).message.content == "快"
    release.set()
    await draining
    end = await reading.wait_end()
    system.caller.close(reading)
    assert ai.ChatResponse.FromString(end.answer).message.content == "慢"


async def test_job_that_outlasts_the_drain_goes_to_another_worker(system: System) -> None:
    started = asyncio.Event()

    async def hang(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        started.set()
        await asyncio.sleep(3600)
        raise AssertionError

    first = await system.worker(chat=hang)
    reading = await system.submit("接着做", seconds=30)
    await started.wait()
    await system.worker(chat=echo)
    await first.drain(0.1)
    end = await reading.wait_end()
    system.caller.close(reading)
    assert ai.ChatResponse.FromString(end.answer).message.content == "接着做"


async def test_answer_too_large_for_its_record_is_decided_once_and_not_run_again(system: System) -> None:
    ran = 0

    async def hoard(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal ran
        ran += 1
        call.follow_up = b"x" * 9_000_000
        return await echo(call, request)

    await system.worker(chat=hoard)
    reading = await system.submit("x", seconds=30)
    end = await reading.wait_end()
    system.caller.close(reading)
    assert Fault.from_status(end.status).reason == "TOO_LARGE"
    assert ran == 1
