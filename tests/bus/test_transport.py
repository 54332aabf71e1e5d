"""What the protocol needs of a broker, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
import time

import pytest

from qingyu_ai.bus import headers as wire
from qingyu_ai.bus import subjects, topology
from qingyu_ai.bus.transport import Backlog, Delivery, Headers
from qingyu_ai.bus.transport_errors import Conflict, NoResponders, PayloadTooLarge, ReplyTimeout, StoreRefused
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST
from tests.bus.system import Connect
from tests.waiting import eventually

CALL = "0" * 31 + "1"
LOG = f"ai.stream.chat.b1.{CALL}"


async def test_published_message_reaches_every_subscriber_with_its_headers(connect: Connect) -> None:
    a, b = await connect(), await connect()
    heard: list[tuple[str, bytes, str]] = []

    def hear(subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        heard.append((subject, data, (headers or {}).get("K", "")))

    await a.subscribe("t.one.*", hear)
    await b.subscribe("t.>", hear)
    a.publish("t.one.two", "正文".encode(), headers=wire.encode({"K": "值"}))
    await eventually(lambda: len(heard) == 2)
    assert heard == [("t.one.two", "正文".encode(), "值")] * 2


async def test_one_member_of_a_queue_group_gets_each_message(connect: Connect) -> None:
    a, b = await connect(), await connect()
    heard: list[bytes] = []
    for bus in (a, b):
        await bus.subscribe("t.q", lambda s, r, data, h: heard.append(data), queue="workers")
    for i in range(50):
        a.publish("t.q", b"%d" % i)
    await eventually(lambda: len(heard) == 50)
    assert sorted(heard, key=int) == [b"%d" % i for i in range(50)]


async def test_stopped_subscription_hears_nothing_more(connect: Connect) -> None:
    a, b = await connect(), await connect()
    heard: list[bytes] = []
    interest = await a.subscribe("t.s", lambda s, r, data, h: heard.append(data))
    await interest.stop()
    await a.subscribe("t.end", lambda s, r, data, h: heard.append(b"end"))
    b.publish("t.s", b"x")
    b.publish("t.end", b"")
    await eventually(lambda: bool(heard))
    assert heard == [b"end"]


async def test_request_is_answered_by_the_responder(connect: Connect) -> None:
    asking, answering = await connect(), await connect()
    await answering.subscribe(
        "t.ask", lambda s, reply, data, h: answering.publish(reply, data + b"!", headers=wire.encode({"A": "b"}))
    )
    body, headers = await asking.ask("t.ask", b"hi", timeout=2)
    assert body == b"hi!"
    assert headers is not None
    assert headers["A"] == "b"


async def test_request_nobody_listens_to_fails_at_once(connect: Connect) -> None:
    bus = await connect()
    began = time.monotonic()
    with pytest.raises(NoResponders):
        await bus.ask("t.nobody", b"", timeout=30)
    assert time.monotonic() - began < 10


async def test_request_without_a_reply_times_out_and_leaves_nothing_waiting(connect: Connect) -> None:
    asking, answering = await connect(), await connect()
    await answering.subscribe("t.mute", lambda s, r, d, h: None)

    async def times_out() -> bool:
        with pytest.raises((ReplyTimeout, NoResponders), match=r"t\.mute") as refused:
            await asking.ask("t.mute", b"", timeout=0.05)
        return refused.type is ReplyTimeout  # another server of a cluster hears of the subscription a moment later

    await eventually(times_out)
    assert not asking.waiting


async def test_payload_at_the_limit_passes_and_one_byte_more_is_refused_without_harm(connect: Connect) -> None:
    bus, other = await connect(), await connect()
    sizes: list[int] = []
    await other.subscribe("t.big", lambda s, r, data, h: sizes.append(len(data)))
    headers = wire.encode({"K": "v" * 100})
    room = bus.max_payload - len(headers)
    with pytest.raises(PayloadTooLarge) as refused:
        bus.publish("t.big", b"x" * (room + 1), headers=headers)
    assert (refused.value.size, refused.value.limit) == (bus.max_payload + 1, bus.max_payload)
    bus.publish("t.big", b"x" * room, headers=headers)
    await eventually(lambda: sizes == [room])
    assert bus.connected


async def test_stored_messages_are_numbered_in_order(connect: Connect) -> None:
    bus = await connect()
    first = await bus.store(LOG, b"a", timeout=2)
    assert await bus.store(LOG, b"b", timeout=2) == first + 1


async def test_storing_where_no_stream_listens_is_refused(connect: Connect) -> None:
    bus = await connect()
    with pytest.raises(StoreRefused, match="no stream"):
        await bus.store("t.nowhere", b"", timeout=2)


async def test_compare_and_set_creates_once_and_updates_only_the_known_revision(connect: Connect) -> None:
    bus = await connect()
    key = topology.call_key(CALL)
    assert await bus.last(topology.CALLS, key, timeout=2) is None
    revision = await bus.store(key, b"run", expect=0, timeout=2)
    with pytest.raises(Conflict):
        await bus.store(key, b"other", expect=0, timeout=2)
    newer = await bus.store(key, b"done", expect=revision, timeout=2)
    assert newer > revision
    with pytest.raises(Conflict):
        await bus.store(key, b"late", expect=revision, timeout=2)
    found = await bus.last(topology.CALLS, key, timeout=2)
    assert found is not None
    assert (found.sequence, found.data, found.subject) == (newer, b"done", key)


async def test_of_many_concurrent_creations_exactly_one_succeeds(connect: Connect) -> None:
    buses = [await connect() for _ in range(4)]
    key = topology.call_key(CALL)
    results = await asyncio.gather(
        *(bus.store(key, b"x", expect=0, timeout=5) for bus in buses for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(r, int) for r in results) == 1
    assert sum(isinstance(r, Conflict) for r in results) == 39


async def test_log_is_read_message_by_message_from_any_sequence(connect: Connect) -> None:
    bus = await connect()
    other = LOG[:-1] + "2"
    a = await bus.store(LOG, b"a", timeout=2)
    await bus.store(other, b"x", timeout=2)
    b = await bus.store(LOG, b"b", timeout=2)
    first = await bus.next(topology.LOG, subjects.logs_of_call(CALL), 1, timeout=2)
    assert first is not None
    assert (first.sequence, first.data, first.subject) == (a, b"a", LOG)
    second = await bus.next(topology.LOG, LOG, a + 1, timeout=2)
    assert second is not None
    assert (second.sequence, second.data) == (b, b"b")
    assert await bus.next(topology.LOG, LOG, b + 1, timeout=2) is None


async def test_reader_follows_from_now_or_from_the_start_in_order(connect: Connect) -> None:
    bus, reader = await connect(), await connect()
    for i in range(20):
        await bus.store(LOG, b"%d" % i, timeout=2)
    streams: list[str] = []
    all_of_it: list[bytes] = []
    new: list[bytes] = []
    whole = await reader.follow(
        topology.LOG, LOG, lambda s, n, data: all_of_it.append(data), streams.append, from_start=True
    )
    tail = await reader.follow(
        topology.LOG, "ai.stream.*.b1.>", lambda s, n, d: new.append(d), streams.append, from_start=False
    )
    for i in range(20, 40):
        await bus.store(LOG, b"%d" % i, timeout=2)
    await eventually(lambda: len(all_of_it) == 40 and len(new) == 20)
    assert all_of_it == [b"%d" % i for i in range(40)]
    assert new == [b"%d" % i for i in range(20, 40)]
    assert streams == [await bus.generation(topology.LOG)] * 2
    await whole.stop()
    await tail.stop()


async def test_readers_do_not_hear_other_bridges(connect: Connect) -> None:
    bus, reader = await connect(), await connect()
    streams: list[str] = []
    heard: list[bytes] = []
    await reader.follow(
        topology.LOG, "ai.stream.*.b1.>", lambda s, n, data: heard.append(data), streams.append, from_start=False
    )
    await bus.store(f"ai.stream.chat.b2.{CALL}", b"theirs", timeout=2)
    await bus.store(LOG, b"ours", timeout=2)
    await eventually(lambda: bool(heard))
    assert heard == [b"ours"]


class Held:
    """A worker's slots, as a test sees them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.deliveries: list[Delivery] = []

    def free(self) -> int:
        return self.slots - len(self.deliveries)

    def take(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)


JOB = "ai.job.chat.complete"


async def test_no_more_jobs_are_fetched_than_there_are_free_slots(connect: Connect) -> None:
    bus = await connect()
    held = Held(3)
    puller = await bus.pull(topology.QUEUES["chat"], held.free, held.take)
    for i in range(8):
        await bus.store(JOB, b"%d" % i, timeout=2)
    await eventually(lambda: len(held.deliveries) == 3)
    for delivery in held.deliveries:
        delivery.ack()
    held.deliveries.clear()
    puller.renew()
    await eventually(lambda: len(held.deliveries) == 3)
    assert [d.data for d in held.deliveries] == [b"3", b"4", b"5"]
    assert all(d.delivery == 1 for d in held.deliveries)
    await puller.stop()


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"ack_wait_seconds": 0.3})])
async def test_job_that_nobody_acknowledges_is_delivered_again(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    held = Held(5)
    puller = await bus.pull(topology.QUEUES["chat"], held.free, held.take)
    await bus.store(JOB, b"x", headers=wire.encode({"K": "v"}), timeout=2)
    await eventually(lambda: len(held.deliveries) == 2)
    first, second = held.deliveries
    assert (first.delivery, second.delivery) == (1, 2)
    assert first.sequence == second.sequence
    assert (second.headers or {})["K"] == "v"
    second.ack()
    await puller.stop()


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"ack_wait_seconds": 0.4})])
async def test_job_in_progress_is_not_delivered_again(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    held = Held(5)
    puller = await bus.pull(topology.QUEUES["chat"], held.free, held.take)
    await bus.store(JOB, b"x", timeout=2)
    await eventually(lambda: len(held.deliveries) == 1)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        held.deliveries[0].in_progress()
        await asyncio.sleep(0.1)
    assert len(held.deliveries) == 1
    held.deliveries[0].ack()
    await puller.stop()


async def test_backlog_tells_what_waits_and_what_is_claimed(connect: Connect) -> None:
    bus = await connect()
    held = Held(3)
    for i in range(8):
        await bus.store(JOB, b"%d" % i, timeout=2)
    assert await bus.backlog(topology.QUEUES["chat"]) == Backlog(waiting=8, claimed=0)
    assert await bus.backlog(topology.QUEUES["agent"]) == Backlog(waiting=0, claimed=0)
    puller = await bus.pull(topology.QUEUES["chat"], held.free, held.take)
    await eventually(lambda: len(held.deliveries) == 3)
    assert await bus.backlog(topology.QUEUES["chat"]) == Backlog(waiting=5, claimed=3)
    await puller.stop()
    for delivery in held.deliveries:
        delivery.ack()

    async def acknowledged() -> bool:
        return await bus.backlog(topology.QUEUES["chat"]) == Backlog(waiting=5, claimed=0)

    await eventually(acknowledged)


async def test_job_given_back_comes_again_after_its_delay(connect: Connect) -> None:
    bus = await connect()
    held = Held(5)
    puller = await bus.pull(topology.QUEUES["chat"], held.free, held.take)
    await bus.store(JOB, b"x", timeout=2)
    await eventually(lambda: len(held.deliveries) == 1)
    held.deliveries[0].nak(0.2)
    given_back = time.monotonic()
    await eventually(lambda: len(held.deliveries) == 2)
    assert time.monotonic() - given_back >= 0.15
    held.deliveries[1].term()
    await puller.stop()


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"queue_bytes": 1024 * 1024})])
async def test_full_queue_refuses_and_heals_when_jobs_are_done(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    stored = 0
    for _ in range(8):
        await bus.store(JOB, b"x" * 100_000, timeout=2)
        stored += 1
    with pytest.raises(StoreRefused, match="maximum bytes"):
        await bus.store(JOB, b"x" * 300_000, timeout=2)
    held = Held(20)
    puller = await bus.pull(topology.QUEUES["chat"], held.free, held.take)
    await eventually(lambda: len(held.deliveries) == stored)
    for delivery in held.deliveries:
        delivery.ack()

    async def stores_again() -> bool:
        try:
            await bus.store(JOB, b"x" * 300_000, timeout=2)
        except StoreRefused:
            return False
        return True

    await eventually(stores_again)
    await puller.stop()


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"log_bytes": 1024 * 1024})])
async def test_full_log_drops_its_oldest_messages_and_tells_how_old_the_oldest_is(
    connect: Connect, settings: BusSettings
) -> None:
    bus = await connect()
    for _ in range(30):
        await bus.store(LOG, b"x" * 100_000, timeout=2)
    usage = await bus.used(topology.LOG)
    assert usage.max_bytes == 1024 * 1024
    assert usage.bytes <= usage.max_bytes
    assert abs(usage.oldest_unix - time.time()) < 60


async def test_generation_stays_while_the_stream_does(connect: Connect) -> None:
    a, b = await connect(), await connect()
    assert await a.generation(topology.LOG) == await b.generation(topology.LOG) != ""
