"""Rpc rows and job rows from end to end, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.errors import (
    Cancelled,
    Code,
    Expired,
    Fault,
    Invalid,
    NoWorker,
    Overloaded,
    SameIdOtherBody,
)
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.records import Records
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST
from tests.bus.system import Connect, System, close_system, echo, open_system, read, spell, vanish
from tests.waiting import eventually

NOVEL = "却说黛玉听见宝玉的话，心中一酸，滴下泪来。" * 20


async def answer_search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
    return rag.SearchResponse(total_count=len(request.query))


# Rpc rows.


async def test_rpc_is_answered(system: System) -> None:
    await system.worker(kind="rag", search=answer_search)
    assert (await system.ask("红楼梦")).total_count == 3


async def test_rpc_without_a_worker_is_unavailable_at_once_with_a_retry_hint(system: System) -> None:
    began = time.monotonic()
    with pytest.raises(NoWorker) as refused:
        await system.ask("x", seconds=30)
    assert time.monotonic() - began < 5
    assert refused.value.retry_seconds is not None


async def test_rpc_to_a_full_worker_is_refused_at_once(system: System) -> None:
    release = asyncio.Event()

    async def slow(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        await release.wait()
        return rag.SearchResponse()

    worker = await system.worker(kind="rag", slots=2, search=slow)
    first = [asyncio.create_task(system.ask("x")) for _ in range(2)]
    await eventually(lambda: worker.running == 2)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.retry_seconds is not None
    release.set()
    await asyncio.gather(*first)


async def test_rpc_fault_reaches_the_caller_as_it_was_raised(system: System) -> None:
    async def refuse(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        raise Invalid(("query", "is too strange"))

    await system.worker(kind="rag", search=refuse)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.violations == (("query", "is too strange"),)
    assert "请求无效" in refused.value.chinese


async def test_rpc_exception_reaches_the_caller_as_an_id_only(system: System) -> None:
    async def fail(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        raise RuntimeError("password=hunter2")

    await system.worker(kind="rag", search=fail)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.INTERNAL
    assert b"hunter2" not in refused.value.status
    assert refused.value.facts["error_id"] in refused.value.message


async def test_rpc_deadline_ends_the_wait_and_the_work(system: System) -> None:
    ended = asyncio.Event()

    async def slow(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    worker = await system.worker(kind="rag", search=slow)
    with pytest.raises(Expired):
        await system.ask("x", seconds=0.2)
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: worker.running == 0)


async def test_rpc_whose_caller_leaves_stops(system: System) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    await system.worker(kind="rag", search=slow)
    asking = asyncio.create_task(system.ask("x", seconds=60))
    await started.wait()
    asking.cancel()
    await asyncio.wait_for(ended.wait(), 5)


async def test_rpc_that_expired_on_its_way_is_dropped_unexecuted(system: System) -> None:
    ran: list[str] = []

    async def note(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        ran.append(request.query)
        return rag.SearchResponse()

    await system.worker(kind="rag", search=note)
    with pytest.raises(Expired):
        await system.ask("late", seconds=0)
    await system.ask("in time")
    assert ran == ["in time"]


# Job rows.


async def test_job_is_answered_and_its_record_decided_and_its_message_gone(system: System) -> None:
    await system.worker(chat=echo)
    reading = await system.submit("你好")
    end = await reading.wait_end()
    system.caller.close(reading)
    assert ai.ChatResponse.FromString(end.answer).message.content == "你好"
    bus = system.buses[0]
    entry = await Records(bus, system.settings).read(reading.call)
    assert entry is not None
    assert entry.done
    assert entry.record.end.answer == end.answer

    async def queue_is_empty() -> bool:
        return (await bus.used("AI_CHAT")).bytes == 0

    await eventually(queue_is_empty)


async def test_stream_arrives_whole_in_order_with_one_final_chunk(system: System) -> None:
    await system.worker(stream=spell)
    assert await system.stream(NOVEL) == NOVEL


async def test_many_streams_at_once_do_not_mix(system: System) -> None:
    await system.worker(stream=spell, slots=64)
    texts = [f"{i}:{NOVEL[i : i + 100]}" for i in range(40)]
    assert await asyncio.gather(*(system.stream(text) for text in texts)) == texts


async def test_what_waits_for_an_acknowledgement_goes_out_together(system: System) -> None:
    async def burst(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for character in request.messages[-1].content:
            yield ai.ChatStreamChunk(delta=character)
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=burst)
    reading = await system.submit(NOVEL, stream=True)
    chunks = 0
    deltas = 0
    while taken := await reading.take():
        chunks += len(taken)
        deltas += sum(span for _, span in taken)
    system.caller.close(reading)
    assert deltas == len(NOVEL) + 1
    assert chunks < deltas / 2


async def test_job_without_a_worker_is_unavailable_and_nothing_is_stored(system: System) -> None:
    with pytest.raises(NoWorker):
        await system.submit("x")
    bus = await system.connect()
    assert (await bus.used("AI_CHAT")).bytes == 0
    assert (await bus.used(topology.CALLS)).bytes == 0


async def test_trailers_come_with_the_end(system: System) -> None:
    async def count(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        call.trailers["x-model"] = "m1"
        return ai.ChatResponse()

    await system.worker(chat=count)
    reading = await system.submit("x")
    end = await reading.wait_end()
    system.caller.close(reading)
    assert dict(end.trailers) == {"x-model": "m1"}


async def test_stream_that_fails_keeps_what_it_said_and_says_why(system: System) -> None:
    async def half(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="上半")
        yield ai.ChatStreamChunk(delta="章")
        raise Overloaded("The model is busy", "模型繁忙", 1)

    await system.worker(stream=half)
    reading = await system.submit("x", stream=True)
    assert await read(reading) == "上半章"
    system.caller.close(reading)
    assert reading.end is not None
    assert Fault.from_status(reading.end.status).code is Code.RESOURCE_EXHAUSTED


async def test_stream_that_raises_shows_an_id_only(system: System) -> None:
    async def fail(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="a")
        raise RuntimeError("secret")

    await system.worker(stream=fail)
    reading = await system.submit("x", stream=True)
    assert await read(reading) == "a"
    system.caller.close(reading)
    assert reading.end is not None
    assert b"secret" not in reading.end.status
    assert Fault.from_status(reading.end.status).code is Code.INTERNAL


async def test_bytes_that_are_no_request_end_the_job_as_invalid(system: System) -> None:
    from qingyu_ai import routes

    await system.worker(chat=echo)
    envelope = system.envelope(routes.CHAT, b"\xff")
    reading = await system.caller.submit(routes.CHAT, routes.CHAT.subject, b"\xff", envelope, chosen=False)
    end = await reading.wait_end()
    system.caller.close(reading)
    assert Fault.from_status(end.status).code is Code.INVALID_ARGUMENT


async def test_jobs_beyond_the_slots_wait_and_are_done(system: System) -> None:
    most = 0

    async def note(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal most
        most = max(most, worker.running)
        await asyncio.sleep(0.02)
        return await echo(call, request)

    worker = await system.worker(chat=note, slots=3)
    answers = await asyncio.gather(*(system.chat(str(i), seconds=30) for i in range(20)))
    assert [a.message.content for a in answers] == [str(i) for i in range(20)]
    assert most == 3


async def test_worker_of_both_kinds_of_rows_takes_no_more_of_either_than_its_slots(system: System) -> None:
    """Jobs that a standing pull has asked for already come on top of the rpc calls that came meanwhile."""
    release = asyncio.Event()
    jobs = 0

    async def slow_job(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal jobs
        jobs += 1
        await release.wait()
        return await echo(call, request)

    async def slow_rpc(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        await release.wait()
        return rag.SearchResponse()

    worker = await system.worker(slots=2, chat=slow_job, search=slow_rpc)
    await system.worker(kind="rag", slots=1)  # so that the row's kind is there; it serves nothing
    asked = [asyncio.create_task(system.ask("x")) for _ in range(2)]
    await eventually(lambda: worker.running == 2)
    chats = [asyncio.create_task(system.chat(str(i), seconds=30)) for i in range(3)]
    await eventually(lambda: worker.running == 4)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert jobs == 2
    release.set()
    await asyncio.gather(*asked, *chats)
    assert jobs == 3


# Deadline and cancel.


async def stopped_stream(system: System, ended: asyncio.Event) -> None:
    async def forever(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        try:
            yield ai.ChatStreamChunk(delta="开头")
            await asyncio.sleep(60)
        finally:
            ended.set()

    await system.worker(stream=forever)


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


# The same request again.


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


# Silence, slowness, death.


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
        await asyncio.sleep(0.02)
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


# After the commit, and on the way out.


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


# Two requests with one id, at two bridges and at one.


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


async def test_job_that_no_worker_can_read_is_decided_in_the_end(system: System) -> None:
    from qingyu_ai import routes
    from qingyu_ai.bus import headers as wire
    from qingyu_ai.bus import record
    from qingyu_ai.bus.jobs import MAX_ATTEMPTS_UNREADABLE

    worker = await system.worker(chat=echo)
    envelope = system.envelope(routes.CHAT, b"")
    block = envelope._replace(inbox="ai.stream.chat.b." + envelope.call).encode(stored=True)
    future = block.replace(b"Qai-Version: 1", b"Qai-Version: 9")
    bus = system.buses[0]

    class Last:
        subject, data, sequence, delivery = routes.CHAT.subject, b"", 1, MAX_ATTEMPTS_UNREADABLE
        headers = wire.decode(future)
        ended = ""

        def term(self) -> None:
            self.ended = "term"

    delivery = Last()
    worker.jobs.on_job(delivery)  # type: ignore[arg-type]
    await eventually(lambda: delivery.ended == "term")
    entry = await Records(bus, system.settings).read(envelope.call)
    assert entry is not None
    assert record.attach(entry, bytes.fromhex(envelope.digest), 0) is record.Attach.ANSWER
    assert Fault.from_status(entry.record.end.status).code is Code.FAILED_PRECONDITION


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
