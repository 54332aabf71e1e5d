"""Job rows from end to end, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.errors import Code, Fault, NoWorker, Overloaded
from qingyu_ai.bus.handler import Call, Submission
from qingyu_ai.bus.owner import owner_of
from qingyu_ai.bus.records import Records
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract import rag_pb2 as rag
from tests.bus.system import System, echo, read, spell
from tests.waiting import eventually

NOVEL = "却说黛玉听见宝玉的话，心中一酸，滴下泪来。" * 20


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
    assert entry.record.owner == owner_of("u1")

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


async def test_after_a_flush_the_log_has_all_that_was_said(system: System) -> None:
    found: list[bytes] = []

    async def flushes(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for character in request.messages[-1].content:
            yield ai.ChatStreamChunk(delta=character)
        await call.flush()
        subject, sequence = f"ai.stream.chat.*.{call.id}", 1
        while stored := await system.buses[0].next(topology.LOG, subject, sequence, timeout=1):
            for chunk in bus_pb2.Frame.FromString(stored.data).data.chunk:
                found.append(ai.ChatStreamChunk.FromString(chunk).delta.encode())
            sequence = stored.sequence + 1
        yield ai.ChatStreamChunk(is_final=True)

    await system.worker(stream=flushes)
    assert await system.stream(NOVEL) == NOVEL
    assert b"".join(found).decode() == NOVEL


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
    answers = await asyncio.gather(*(system.chat(str(i), seconds=30, user=f"u{i}") for i in range(20)))
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
    chats = [asyncio.create_task(system.chat(str(i), seconds=30, user=f"u{i}")) for i in range(3)]
    await eventually(lambda: worker.running == 4)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert jobs == 2
    release.set()
    await asyncio.gather(*asked, *chats)
    assert jobs == 3


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


async def test_jobs_say_in_which_order_they_were_stored(system: System) -> None:
    seen: dict[str, Submission] = {}

    async def note(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        seen[request.messages[-1].content] = call.submitted
        return await echo(call, request)

    await system.worker(chat=note)
    for text in ("first", "second"):
        reading = await system.submit(text)
        await reading.wait_end()
        system.caller.close(reading)
    made = await system.buses[0].generation("AI_CHAT")
    assert seen["first"] < seen["second"]
    assert seen["second"] == Submission.of(made, seen["second"].sequence)


def test_queue_that_was_made_anew_is_younger_though_it_counts_from_one() -> None:
    before = Submission.of("2026-01-02T03:04:05.9Z", 70)
    after = Submission.of("2026-01-02T03:04:05.90000001Z", 1)
    assert before.queue == 1_767_323_045_900_000_000
    assert before < after < Submission.of("2026-01-02T03:04:06Z", 1)
