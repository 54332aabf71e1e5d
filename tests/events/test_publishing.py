"""What a caller and its workers publish, and what they do when nobody takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qingyu_ai import routes
from qingyu_ai.bus import record, topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import BusDown, Cancelled, Fault, Invalid
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.bus.observing import Decided, Observed
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST
from tests.bus.system import System, echo, spell
from tests.events.conftest import Published
from tests.waiting import eventually


async def costly(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
    """Spell, and leave what it cost."""
    call.trailers |= {"x-model": "m", "x-usage-prompt": "3", "x-usage-completion": "2", "x-usage-estimated": "false"}
    async for chunk in spell(call, request):
        yield chunk


async def test_stream_is_told_from_its_acceptance_to_its_end(system: System, published: Published) -> None:
    worker = await system.worker(stream=costly)
    assert await system.stream("黛玉") == "黛玉"
    await eventually(lambda: len(system.workers[0].jobs.answered) == 0 and not worker.running)
    found = await published.await_all(count=5)
    assert {event.name for event in found} == {"worker_up", "accepted", "started", "first_token", "completed"}
    of_call = {event.name: event for event in found if event.name != "worker_up"}
    assert len({event.attributes.subject for event in of_call.values()}) == 1
    completed = of_call["completed"].data
    assert isinstance(completed, v1.CallCompleted)
    assert completed.call is not None
    assert completed.usage is not None
    assert (completed.call.user, completed.call.service, completed.call.method) == ("u1", "chat", "ChatStream")
    assert (completed.usage.model, completed.usage.prompt_tokens, completed.usage.estimated) == ("m", 3, False)
    started = of_call["started"].data
    assert isinstance(started, v1.CallStarted)
    assert started.call is not None
    assert (started.worker, started.attempt, started.call.epoch) == (worker.token, 1, completed.call.epoch)


async def test_short_rpc_is_one_event(system: System, published: Published) -> None:
    async def search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        if request.query == "不":
            raise Invalid(("query", "must not be that"))
        return rag.SearchResponse(total_count=1)

    await system.worker(kind="rag", search=search)
    await system.ask("花")
    with pytest.raises(Fault):
        await system.ask("不")
    found = await published.await_all("completed", "failed", count=2)
    assert [event.name for event in found] == ["completed", "failed"]
    failed = found[1].data
    assert isinstance(failed, v1.CallFailed)
    assert failed.failure is not None
    assert (failed.failure.reason, failed.call and failed.call.method) == ("INVALID_REQUEST", "Search")


async def test_no_text_of_a_caller_enters_a_subject(system: System, published: Published) -> None:
    await system.worker(chat=echo)
    body = ai.ChatRequest(messages=[{"role": "user", "content": "x"}]).SerializeToString()  # type: ignore[list-item]
    envelope = system.envelope(routes.CHAT, body, user="a.>")._replace(project="*.> 青")
    reading = await system.caller.submit(routes.CHAT, routes.CHAT.subject, body, envelope, chosen=False)
    await reading.wait_end()
    system.caller.close(reading)
    await eventually(lambda: published.publishers[-1].sent["completed"])
    [event] = await published.all("completed")
    token = event.subject.rpartition(".")[2]
    assert (len(token), token.isalnum(), token.isascii()) == (32, True, True)
    assert isinstance(event.data, v1.CallCompleted)
    assert event.data.call is not None
    assert event.data.call.project == "*.> 青"


async def test_cancelled_call_is_told_by_its_worker_though_a_bridge_decided_it(
    system: System, published: Published
) -> None:
    ended = asyncio.Event()

    async def forever(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        try:
            yield ai.ChatStreamChunk(delta="开头")
            await asyncio.sleep(60)
        finally:
            ended.set()

    await system.worker(stream=forever)
    reading = await system.submit("x", stream=True)
    assert await reading.take()
    system.caller.close(reading, Cancelled())
    await asyncio.wait_for(ended.wait(), 10)
    await eventually(lambda: published.publishers[-1].sent["cancelled"])
    [event] = await published.ends(reading.call)
    assert event.name == "cancelled"


async def test_job_that_is_put_aside_is_told_as_such_and_not_as_failed(system: System, published: Published) -> None:
    async def broken(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        raise KeyError("a defect of ours")

    await system.worker(chat=broken)
    reading = await system.submit("x")
    assert (await reading.wait_end()).status
    system.caller.close(reading)
    await eventually(lambda: published.publishers[-1].sent["dead_lettered"])
    [event] = await published.ends(reading.call)
    assert isinstance(event.data, v1.CallDeadLettered)
    assert event.data.failure is not None
    assert (event.data.failure.reason, "a defect" in event.data.failure.message) == ("INTERNAL", False)


async def test_call_whose_deadline_comes_has_failed_once(system: System, published: Published) -> None:
    async def forever(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await asyncio.sleep(60)
        return ai.ChatResponse()

    await system.worker(chat=forever)
    reading = await system.submit("x", seconds=0.5)
    assert (await reading.wait_end()).status
    system.caller.close(reading)
    await eventually(lambda: published.publishers[-1].sent["failed"])
    [event] = await published.ends(reading.call)
    assert isinstance(event.data, v1.CallFailed)
    assert event.data.failure is not None
    assert event.data.failure.reason == "DEADLINE_EXCEEDED"


async def test_failure_that_is_tried_again_is_told_and_so_is_what_came_of_it(
    system: System, published: Published
) -> None:
    tries: list[str] = []

    async def second_time(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        tries.append(call.id)
        if len(tries) == 1:
            raise BusDown("x")
        return ai.ChatResponse()

    await system.worker(chat=second_time)
    reading = await system.submit("x", request_id="mine")
    assert (await reading.wait_end()).status
    system.caller.close(reading)
    await eventually(lambda: published.publishers[-1].sent["failed"])
    await system.chat("x", request_id="mine")
    await eventually(lambda: published.publishers[-1].sent["completed"])
    # The failure is told once more, in case nobody had; the stream knows its id.
    assert [event.name for event in await published.ends(tries[0])] == ["failed", "completed"]
    assert len({event.id for event in await published.ends(tries[0])}) == 2


async def test_worker_that_goes_says_so_and_one_that_vanishes_is_missed(system: System, published: Published) -> None:
    good, gone = await system.worker(chat=echo), await system.worker(chat=echo)
    await good.drain(1)
    for interest in gone._announcement._interests:
        await interest.stop()  # as a kill does, which says nothing
    gone._announcement._interests.clear()
    await eventually(lambda: published.publishers[0].sent["worker_down"])
    found = await published.await_all("worker_up", "worker_draining", "worker_down", count=5)
    words = [(event.attributes.subject, event.name, getattr(event.data, "lost", None)) for event in found]
    assert [word for word in words if word[0] == good.token] == [
        (good.token, "worker_up", None),
        (good.token, "worker_draining", None),
        (good.token, "worker_down", False),
    ]
    assert words[-1] == (gone.token, "worker_down", True)


class TestWithoutTheStream:
    """Events cannot be stored."""

    @pytest.fixture
    def settings(self) -> BusSettings:
        """Its jobs are given back only after the test."""
        return FAST.model_copy(update={"patience_seconds": 60.0})

    async def test_call_is_answered_and_holds_no_slot_and_its_event_comes_when_it_can(
        self, system: System, published: Published
    ) -> None:
        worker = await system.worker(chat=echo, slots=1)
        bus = system.buses[0]
        assert isinstance(bus, NatsBus)
        await bus.jetstream.delete_stream(topology.EVENTS)
        readings = []
        # With one slot the second call would wait for the first one's event, which waits for a stream.
        for text in ("一", "二"):
            reading = await system.submit(text)
            assert not (await asyncio.wait_for(reading.wait_end(), 5)).status
            system.caller.close(reading)
            readings.append(reading)
        jobs = (await bus.jetstream.stream_info("AI_CHAT")).state.messages
        assert jobs == 2, "a job was acknowledged before its event was stored"
        await bus.ensure_topology(system.settings)

        async def no_jobs() -> bool:
            return (await bus.jetstream.stream_info("AI_CHAT")).state.messages == 0

        await eventually(no_jobs)
        for reading in readings:
            assert len(await published.ends(reading.call)) == 1
        assert not worker.jobs.answered

    async def test_no_more_jobs_wait_for_it_beside_the_slots_than_there_are_slots(self, system: System) -> None:
        worker = await system.worker(chat=echo, slots=2)
        bus = system.buses[0]
        assert isinstance(bus, NatsBus)
        await bus.jetstream.delete_stream(topology.EVENTS)
        readings = [await system.submit(str(n), user=f"u{n}") for n in range(6)]

        def ended() -> int:
            return sum(reading.end is not None for reading in readings)

        await eventually(lambda: ended() == 4 and len(worker.jobs.answered) == len(worker.jobs.tasks) == 2)
        assert ended() == 4
        await bus.ensure_topology(system.settings)
        await eventually(lambda: ended() == 6)
        for reading in readings:
            system.caller.close(reading)


class TestShedding:
    """A process sends no more events that may be shed than it may."""

    async def test_what_is_beyond_the_allowance_is_counted_and_not_sent(self) -> None:
        broker = Broker()
        publisher = Publisher(MemoryBus(broker), BusSettings(events_per_second=5))
        for _ in range(50):
            publisher.started(call_of("1" * 32), "w", 1)
        sent, shed = publisher.sent["started"], publisher.shed["started"]
        assert sent + shed == 50
        assert 5 <= sent < 50
        assert len(broker.streams[topology.EVENTS].messages) == sent
        broker.close()

    async def test_broker_that_is_away_slows_nobody(self) -> None:
        broker = Broker()
        publisher = Publisher(MemoryBus(broker), BusSettings())
        broker.up = False
        publisher.started(call_of("1" * 32), "w", 1)
        assert (publisher.sent.total(), publisher.shed["started"]) == (0, 1)
        broker.close()

    async def test_broker_that_takes_nothing_gets_nothing_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broker = Broker()
        publisher = Publisher(MemoryBus(broker), BusSettings())
        monkeypatch.setattr(MemoryBus, "unsent_bytes", 2_000_000)
        publisher.first_token(call_of("1" * 32), 0.1)
        assert publisher.shed["first_token"] == 1
        assert not broker.streams[topology.EVENTS].messages
        broker.close()

    async def test_stream_that_is_slow_to_store_what_is_kept_gets_nothing_that_may_be_shed(self) -> None:
        broker = Broker()
        bus = MemoryBus(broker)
        publisher = Publisher(bus, BusSettings(store_seconds=2))
        del broker.streams[topology.EVENTS]  # nobody answers
        waiting = asyncio.create_task(publisher.decided(ended("2" * 32)))
        await eventually(lambda: publisher._keeper.late)
        publisher.started(call_of("1" * 32), "w", 1)
        assert (publisher.shed["started"], publisher.waiting) == (1, 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert publisher._keeper._task is not None
        publisher._keeper._task.cancel()
        await asyncio.gather(*publisher._keeper._singles, publisher._keeper._task, return_exceptions=True)
        broker.close()


def ended(call: str) -> Decided:
    """A call that has completed."""
    held = bus_pb2.Record(state=record.DONE, at_ms=1, end=bus_pb2.End())
    return Decided(call_of(call), 7, held)


def call_of(call: str) -> Observed:
    """A call."""
    return Observed("chat", "ChatStream", "", Envelope(call, "req_1", Deadline.after(10)), 4)
