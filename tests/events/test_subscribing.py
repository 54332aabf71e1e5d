"""Reading events: where a subscription begins, what it is given, and that nothing is lost on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import Observed
from qingyu_ai.contract import events_pb2
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events import BEGINNING, Event, Subscription, Unreachable, cloudevents, subscribe, subscribing
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.events.reading import put, read_all, sequences, take, tell
from tests.nats_cluster import AnyNats
from tests.nats_process import NatsProcess
from tests.waiting import eventually


async def test_subscription_begins_where_it_is_told(bus: NatsBus, nats_process: AnyNats) -> None:
    told = await tell(bus, count=2)
    between = datetime.now(UTC)
    told += await tell(bus, count=2)
    assert sequences(await take(subscribe(nats_process.servers, since=BEGINNING), 4)) == told
    assert sequences(await take(subscribe(nats_process.servers, since=told[2]), 2)) == told[2:]
    assert sequences(await take(subscribe(nats_process.servers, since=between), 2)) == told[2:]
    async with subscribe(nats_process.url) as now:
        [later] = await tell(bus)
        assert sequences(await take(now, 1)) == [later]


async def test_event_comes_as_a_dataclass_with_its_attributes(bus: NatsBus, nats_process: AnyNats) -> None:
    await tell(bus, project="p1")
    [event] = await take(subscribe(nats_process.servers, since=BEGINNING), 1)
    assert isinstance(event.data, v1.CallStarted)
    assert event.data.worker == event.id
    assert (event.name, event.type, event.delivery) == ("started", "qingyu.ai.events.v1.CallStarted", 1)
    assert event.time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


async def test_filters_leave_out_the_rest(bus: NatsBus, nats_process: AnyNats) -> None:
    [chat] = await tell(bus)
    [of_p1] = await tell(bus, project="p1")
    [agent] = await tell(bus, service="agent", project="p2")
    servers = nats_process.servers
    assert sequences(await take(subscribe(servers, since=BEGINNING, service="agent"), 1)) == [agent]
    assert sequences(await take(subscribe(servers, since=BEGINNING, project=["p1", "p2", "p1"]), 2)) == [of_p1, agent]
    assert sequences(await take(subscribe(servers, since=BEGINNING, project=[""]), 1)) == [chat]
    assert sequences(
        await take(subscribe(servers, since=BEGINNING, service=["chat", "agent"], event="started", project="p2"), 1)
    ) == [agent]


@pytest.mark.parametrize(
    ("wrong", "chinese"),
    [
        ({"service": "caht"}, "没有名为 'caht' 的服务"),
        ({"event": "complete"}, "没有名为 'complete' 的事件"),
        ({"event": ["completed", ""]}, "没有名为 '' 的事件"),
        ({"project": "\udcff"}, "项目编号不是 UTF-8"),
        ({"durable": "a.b"}, "须为 1 到 64 个"),
        ({"durable": "a b"}, "须为 1 到 64 个"),
    ],
)
def test_name_that_there_is_not_is_refused(wrong: dict[str, str], chinese: str) -> None:
    with pytest.raises(ValueError, match=chinese) as refused:
        subscribe("nats://127.0.0.1:1", **wrong)  # type: ignore[arg-type]
    assert repr(next(iter(wrong.values()))).strip("[]").split(", ")[-1] in str(refused.value)


@pytest.mark.parametrize("project", ["*", ">", "*.>", " ", "a.b", "none"])
async def test_project_id_that_looks_like_a_filter_is_a_project_id(
    bus: NatsBus, nats_process: AnyNats, project: str
) -> None:
    await tell(bus)
    [of_it] = await tell(bus, project=project)
    assert await read_all(subscribe(nats_process.servers, since=BEGINNING, project=project, follow=False)) == [of_it]


async def test_durable_subscription_goes_on_where_it_was(bus: NatsBus, nats_process: AnyNats) -> None:
    told = await tell(bus, count=3)
    ledger = {"durable": "ledger", "since": BEGINNING}
    assert sequences(await take(subscribe(nats_process.servers, **ledger), 2)) == told[:2]  # type: ignore[arg-type]
    told += await tell(bus)
    assert sequences(await take(subscribe(nats_process.servers, **ledger), 2)) == told[2:]  # type: ignore[arg-type]


async def test_durable_subscription_may_be_given_another_filter(bus: NatsBus, nats_process: AnyNats) -> None:
    [first, _, _] = await tell(bus, count=3)
    servers = nats_process.servers
    assert sequences(await take(subscribe(servers, durable="d", since=BEGINNING), 1)) == [first]
    [agent] = await tell(bus, service="agent")
    assert sequences(await take(subscribe(servers, durable="d", since=first, service="agent"), 1)) == [agent]


async def test_event_whose_body_failed_comes_again(bus: NatsBus, nats_process: AnyNats) -> None:
    told = await tell(bus, count=2)

    async def fail() -> None:
        async with subscribe(nats_process.servers, durable="d", since=BEGINNING) as events:
            async for event in events:
                raise KeyError(event.id)

    with pytest.raises(KeyError):
        await fail()
    again = await take(subscribe(nats_process.servers, durable="d"), 2)
    assert sorted(sequences(again)) == told
    assert max(event.delivery for event in again) == 2


async def test_slow_body_is_not_given_its_event_twice(
    bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribing, "ACK_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(subscribing, "LOOK_SECONDS", 0.2)
    told = await tell(bus, count=2)
    deliveries: list[tuple[int, int]] = []
    async with subscribe(nats_process.servers, since=BEGINNING) as events:
        async for event in events:
            deliveries.append((event.sequence, event.delivery))
            if len(deliveries) == 1:
                [extra] = await tell(bus)
                consumer = (topology.EVENTS, events._name)
                began = asyncio.get_running_loop().time()
                while asyncio.get_running_loop().time() - began < 2.5:  # longer than the broker waits
                    info = await bus.jetstream.consumer_info(*consumer)
                    assert info.num_redelivered == 0
            if event.sequence == extra:
                break
    assert deliveries == [(told[0], 1), (told[1], 1), (extra, 1)]


async def test_two_that_share_a_name_share_the_events(bus: NatsBus, nats_process: AnyNats) -> None:
    servers = nats_process.servers
    async with subscribe(servers, durable="d", since=BEGINNING) as one, subscribe(servers, durable="d") as two:
        told = await tell(bus, count=50)
        found: list[int] = []

        async def read(events: Subscription) -> None:
            async for event in events:
                found.append(event.sequence)

        readers = [asyncio.create_task(read(events)) for events in (one, two)]
        await eventually(lambda: len(found) >= 50)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    assert sorted(found) == told


async def test_subscription_that_has_heard_nothing_yet_misses_nothing_when_its_consumer_is_lost(
    bus: NatsBus, nats_process: AnyNats
) -> None:
    """A server that restarts has lost the consumers in its memory."""
    await tell(bus, count=3)
    async with subscribe(nats_process.servers) as events:
        await bus.jetstream.delete_consumer(topology.EVENTS, events._name)
        told = await tell(bus, count=2)
        async with asyncio.timeout(20):
            found = [(await anext(aiter(events))).sequence]
    assert found == told[:1]


async def test_what_a_lost_subscriber_held_comes_again_though_their_common_consumer_was_lost_too(
    bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribing, "HELD", 1)
    servers = nats_process.servers
    told = await tell(bus, count=5)
    async with subscribe(servers, durable="d", since=BEGINNING) as one:
        assert (await anext(aiter(one))).sequence == told[0]
        async with subscribe(servers, durable="d") as two:
            found: list[int] = []

            async def read() -> None:
                async for event in two:
                    found.append(event.sequence)

            reader = asyncio.create_task(read())
            await eventually(lambda: told[-1] in found)
            assert told[0] not in found
            await bus.jetstream.delete_consumer(topology.EVENTS, "d")
            await one.close()  # it dies with events in hand, and can give them back to nobody
            await eventually(lambda: set(found) == set(told), timeout=20)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


async def test_lag_is_visible(bus: NatsBus, nats_process: AnyNats) -> None:
    await tell(bus, count=5)
    async with subscribe(nats_process.servers, since=BEGINNING) as events:
        await eventually(lambda: events.lag == 5)
        seen = 0
        async for _ in events:
            seen += 1
            assert events.lag == 6 - seen
            if seen == 5:
                break
    assert "behind" in repr(events)


async def test_event_of_a_later_release_is_handed_over_raw(bus: NatsBus, nats_process: AnyNats) -> None:
    await put(bus, "ai.events.v1.video.rendered.none", "v1", type="qingyu.ai.events.v1.VideoRendered")
    [event] = await take(subscribe(nats_process.servers, since=BEGINNING), 1)
    assert (event.type, event.name) == ("qingyu.ai.events.v1.VideoRendered", "rendered")
    assert event.data == events_pb2.CallStarted(worker="v1").SerializeToString()


@pytest.mark.parametrize("data", [b"\x0a", b"\x08", b"\x12\x05\x0a"], ids=["no length", "no number", "cut"])
async def test_data_that_is_no_message_is_handed_over_raw(bus: NatsBus, nats_process: AnyNats, data: bytes) -> None:
    headers = cloudevents.encode("1", "/s", "qingyu.ai.events.v1.CallStarted", 0, "c", "", unique=False)
    await bus.store("ai.events.v1.chat.started.none", data, headers=headers, timeout=2)
    [event] = await take(subscribe(nats_process.servers, since=BEGINNING), 1)
    assert event.data == data


async def test_message_that_is_no_event_ends_no_subscription(bus: NatsBus, nats_process: AnyNats) -> None:
    await bus.store("ai.events.v1.stray", b"hello", timeout=2)
    [told] = await tell(bus)
    stray, event = await take(subscribe(nats_process.servers, since=BEGINNING), 2)
    assert (stray.id, stray.type, stray.name, stray.time, stray.data) == ("", "", "", None, b"hello")
    assert event.sequence == told


async def test_raw_subscription_reads_no_data(bus: NatsBus, nats_process: AnyNats) -> None:
    await tell(bus)
    [event] = await take(subscribe(nats_process.servers, since=BEGINNING, typed=False), 1)
    assert event.data == events_pb2.CallStarted(worker=event.id).SerializeToString()


async def test_stream_that_is_not_there_is_said(nats_process: AnyNats) -> None:
    bus = await NatsBus.open(nats_process.servers, "test", on_closed=lambda: None)
    await bus.ensure_topology(BusSettings(replicas=nats_process.replicas))  # type: ignore[arg-type]
    await bus.jetstream.delete_stream(topology.EVENTS)
    await bus.close()
    with pytest.raises(Unreachable, match=r"no stream AI_EVENTS .*请先启动系统"):
        await take(subscribe(nats_process.servers), 1)


async def test_server_that_is_not_there_is_said() -> None:
    with pytest.raises(Unreachable, match=r"no NATS server at nats://127\.0\.0\.1:1"):
        await take(subscribe("nats://user:secret@127.0.0.1:1"), 1)


class TestOfABrokerThatComesAndGoes:
    """Subscriptions reconnect by themselves."""

    @pytest.fixture
    def own(self) -> Iterator[NatsProcess]:
        process = NatsProcess()
        process.start()
        yield process
        process.close()

    @pytest.mark.parametrize("durable", ["", "d"])
    async def test_nothing_is_missed_or_repeated_over_a_restart(
        self, own: NatsProcess, settings: BusSettings, durable: str
    ) -> None:
        """The consumer of one that is not durable is lost with the server's memory, and made anew."""
        settings = settings.model_copy(update={"replicas": 1})
        bus = await NatsBus.open(own.servers, "test", on_closed=lambda: None)
        await bus.ensure_topology(settings)
        told = await tell(bus, count=3)
        found: list[int] = []
        async with subscribe(own.servers, since=BEGINNING, durable=durable) as events:

            async def read() -> None:
                async for event in events:
                    found.append(event.sequence)

            reader = asyncio.create_task(read())
            await eventually(lambda: len(found) == 3 and events.lag == 0)
            own.restart()
            await eventually(lambda: bus.connections == 2)
            told += await tell(bus, count=3)
            await eventually(lambda: len(found) >= 6, timeout=20)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        assert found == told
        await bus.close()

    async def test_replay_goes_on_over_a_restart_and_complains_of_nothing_else(
        self, own: NatsProcess, settings: BusSettings
    ) -> None:
        settings = settings.model_copy(update={"replicas": 1})
        bus = await NatsBus.open(own.servers, "test", on_closed=lambda: None)
        await bus.ensure_topology(settings)
        told = await tell(bus, count=600)  # more than it holds
        found: list[int] = []
        with structlog.testing.capture_logs() as logs:
            async with asyncio.timeout(40), subscribe(own.servers, since=BEGINNING, follow=False) as events:
                async for event in events:
                    found.append(event.sequence)
                    if len(found) == 10:
                        await asyncio.to_thread(own.restart)
        assert found == told
        assert not [line for line in logs if line["event"] == "job_answer_lost"]
        await bus.close()

    async def test_stream_that_was_made_anew_is_read_from_its_beginning(
        self, own: NatsProcess, settings: BusSettings
    ) -> None:
        settings = settings.model_copy(update={"replicas": 1})
        bus = await NatsBus.open(own.servers, "test", on_closed=lambda: None)
        await bus.ensure_topology(settings)
        await tell(bus, count=5)
        found: list[Event] = []
        async with subscribe(own.servers, since=BEGINNING) as events:

            async def read() -> None:
                async for event in events:
                    found.append(event)

            reader = asyncio.create_task(read())
            await eventually(lambda: len(found) == 5)
            await bus.jetstream.delete_stream(topology.EVENTS)
            await bus.ensure_topology(settings)
            await tell(bus, count=2)
            await eventually(lambda: len(found) >= 7, timeout=20)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        assert sequences(found) == [1, 2, 3, 4, 5, 1, 2]
        await bus.close()


async def test_publisher_and_subscriber_agree(bus: NatsBus, nats_process: AnyNats, settings: BusSettings) -> None:
    publisher = Publisher(bus, settings)
    call = Observed("agent", "ExecuteAgent", "plot", Envelope("c" * 32, "req_1", Deadline.after(9), user="张三"), 4)
    publisher.accepted(call)
    publisher.tool_called(call, 1, "count_words", 0.25, 0)
    accepted, tool = await take(subscribe(nats_process.servers, since=BEGINNING, service="agent"), 2)
    assert isinstance(accepted.data, v1.CallAccepted)
    assert isinstance(tool.data, v1.ToolCalled)
    assert accepted.data.call is not None
    assert (accepted.data.call.target, accepted.data.call.user) == ("plot", "张三")
    assert (tool.data.tool, tool.data.duration_ms, tool.id) == ("count_words", 250, f"{'c' * 32}.tool.4.1")
