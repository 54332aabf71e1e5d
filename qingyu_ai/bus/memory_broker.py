"""The broker of the in-memory twin.

It has what the protocol leans on: queue groups, no responders, streams with limits, compare-and-set, redelivery after the
acknowledgement wait, the payload limit, and a broker that goes away. It has no cluster and no disk.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import topology
from .transport import (
    Backlog,
    Delivery,
    Headers,
    OnFrame,
    OnMessage,
    Queue,
)
from .transport_errors import Conflict, StoreRefused


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern with `*` (one token) and `>` (one or more at the end)."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given) > i
        if i >= len(given) or token not in ("*", given[i]):
            return False
    return len(wanted) == len(given)


@dataclass(eq=False)
class Interest:
    broker: Broker
    pattern: str
    queue: str
    handler: OnMessage

    async def stop(self) -> None:
        self.broker.interests.discard(self)


@dataclass
class StoredMessage:
    subject: str
    sequence: int
    data: bytes
    headers: Headers | None
    at: float
    size: int


def now() -> str:
    """RFC 3339 with nanoseconds, as JetStream writes when a stream was made."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


@dataclass
class Stream:
    plan: topology.Plan
    subjects: list[str]
    generation: str = field(default_factory=now)
    created: float = field(default_factory=time.time)
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    last_sequence: int = 0
    used: int = 0
    followers: set[Follower] = field(default_factory=set)

    def captures(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.subjects)

    def last_of(self, subject: str) -> StoredMessage | None:
        return next((m for m in reversed(self.messages.values()) if m.subject == subject), None)

    def first_of(self, pattern: str, sequence: int) -> StoredMessage | None:
        for n in range(max(sequence, 1), self.last_sequence + 1):
            message = self.messages.get(n)
            if message is not None and matches(pattern, message.subject):
                return message
        return None

    def drop(self, sequence: int) -> None:
        message = self.messages.pop(sequence, None)
        if message is not None:
            self.used -= message.size

    def put(self, subject: str, data: bytes, headers: Headers | None, expect: int | None) -> int:
        now = time.time()
        if self.plan.age_seconds:
            for old in [m.sequence for m in self.messages.values() if now - m.at > self.plan.age_seconds]:
                self.drop(old)
        last = self.last_of(subject)
        if expect is not None and (last.sequence if last else 0) != expect:
            raise Conflict(subject)
        size = len(subject) + len(data) + (len(wire.encode(headers)) if headers else 0)
        limit = self.plan.bytes
        if 0 < limit < self.used + size:
            if not self.plan.evict:
                raise StoreRefused(subject, 10077, "maximum bytes exceeded")
            while self.messages and limit < self.used + size:
                self.drop(next(iter(self.messages)))
        if self.plan.key_value and last:
            self.drop(last.sequence)
        self.last_sequence += 1
        message = StoredMessage(subject, self.last_sequence, data, headers, now, size)
        self.messages[message.sequence] = message
        self.used += size
        for follower in list(self.followers):
            follower.offer(message)
        return message.sequence


@dataclass(eq=False)
class Follower:
    stream: Stream
    pattern: str
    handler: OnFrame
    broker: Broker
    on_stream: Callable[[str], None]

    def offer(self, message: StoredMessage) -> None:
        if matches(self.pattern, message.subject):
            self.broker.soon(self._hand, message)

    def _hand(self, message: StoredMessage) -> None:
        if self in self.stream.followers:
            self.handler(message.subject, message.sequence, message.data)

    async def stop(self) -> None:
        self.stream.followers.discard(self)


@dataclass(eq=False)
class Consumer:
    """A work queue's consumer: who holds which message until when."""

    stream: Stream
    queue: Queue
    ack_wait: float
    pulls: list[Pull] = field(default_factory=list)
    deliveries: dict[int, int] = field(default_factory=dict)
    held_until: dict[int, float] = field(default_factory=dict)

    def match(self) -> None:
        now = time.monotonic()
        for message in list(self.stream.messages.values()):
            if not matches(self.queue.subject, message.subject) or self.held_until.get(message.sequence, 0) > now:
                continue
            pull = next((p for p in self.pulls if p.open and p.free() > p.held), None)
            if pull is None:
                return
            count = self.deliveries[message.sequence] = self.deliveries.get(message.sequence, 0) + 1
            self.held_until[message.sequence] = now + self.ack_wait
            pull.take(MemoryDelivery(self, message, count, pull))

    def backlog(self) -> Backlog:
        """See `transport.Bus.backlog`."""
        mine = [n for n, message in self.stream.messages.items() if matches(self.queue.subject, message.subject)]
        claimed = sum(n in self.deliveries for n in mine)
        return Backlog(len(mine) - claimed, claimed)

    def forget(self, sequence: int) -> None:
        self.stream.drop(sequence)
        self.deliveries.pop(sequence, None)
        self.held_until.pop(sequence, None)


class MemoryDelivery:
    """See `transport.Delivery`."""

    def __init__(self, consumer: Consumer, message: StoredMessage, delivery: int, pull: Pull) -> None:
        self._consumer = consumer
        self._pull = pull
        self.subject = message.subject
        self.data = message.data
        self.headers = message.headers
        self.sequence = message.sequence
        self.stored_ns = int(message.at * 10**9)
        self.delivery = delivery

    def ack(self) -> None:
        """See `transport.Delivery.ack`. A late one is accepted, as the real server does."""
        self._consumer.forget(self.sequence)

    def term(self) -> None:
        """See `transport.Delivery.term`."""
        self._consumer.forget(self.sequence)

    def nak(self, delay_seconds: float = 0) -> None:
        """See `transport.Delivery.nak`."""
        if self.sequence in self._consumer.held_until:
            self._consumer.held_until[self.sequence] = time.monotonic() + delay_seconds

    def in_progress(self) -> None:
        """See `transport.Delivery.in_progress`."""
        if self.sequence in self._consumer.held_until:
            self._consumer.held_until[self.sequence] = time.monotonic() + self._consumer.ack_wait


class Pull:
    def __init__(
        self, broker: Broker, consumer: Consumer, free: Callable[[], int], handler: Callable[[Delivery], None]
    ) -> None:
        self._broker = broker
        self._consumer = consumer
        self._handler = handler
        self.free = free
        self.open = True
        self.held = 0
        """Deliveries that are on their way to the handler, so they count against its slots already."""

    def take(self, delivery: MemoryDelivery) -> None:
        self.held += 1
        self._broker.soon(self._hand, delivery)

    def _hand(self, delivery: MemoryDelivery) -> None:
        self.held -= 1
        if self.open:
            self._handler(delivery)

    def renew(self) -> None:
        self._consumer.match()

    async def stop(self) -> None:
        self.open = False
        if self in self._consumer.pulls:
            self._consumer.pulls.remove(self)


class Broker:
    """What all connections of one test share."""

    def __init__(self, settings: BusSettings | None = None, *, max_payload: int = 8 * 1024 * 1024) -> None:
        self.settings = settings or BusSettings()
        self.max_payload = max_payload
        self.up = True
        self.interests: set[Interest] = set()
        self.streams: dict[str, Stream] = {}
        self._consumers: dict[Queue, Consumer] = {}
        self._tick: asyncio.Task[None] | None = None
        for plan in topology.plans(self.settings):
            self.streams[plan.name] = Stream(plan, topology.job_subjects(plan))

    def lose(self, stream: str) -> None:
        """Delete a stream and make it anew, as a memory stream after its server's death."""
        old = self.streams[stream]
        new = self.streams[stream] = Stream(old.plan, old.subjects)
        for follower in old.followers:
            follower.stream = new
            self.soon(follower.on_stream, new.generation)
        new.followers, old.followers = old.followers, set()

    def stream_of(self, subject: str) -> Stream | None:
        """The stream that captures a subject."""
        return next((s for s in self.streams.values() if s.captures(subject)), None)

    def soon(self, handler: Callable[..., None], *args: object) -> None:
        """Deliver on a later turn of the loop, in order, as a network does."""
        asyncio.get_running_loop().call_soon(handler, *args)

    def deliver(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> int:
        """Hand a message to its listeners, one of each queue group.

        Returns:
            How many there were.
        """
        groups: dict[str, list[Interest]] = {}
        chosen: list[Interest] = []
        for interest in self.interests:
            if matches(interest.pattern, subject):
                (groups.setdefault(interest.queue, []) if interest.queue else chosen).append(interest)
        chosen += [random.choice(members) for members in groups.values()]
        for interest in chosen:
            self.soon(interest.handler, subject, reply, data, headers)
        return len(chosen)

    def consumer(self, queue: Queue) -> Consumer:
        """The durable consumer of a work queue."""
        if queue not in self._consumers:
            self._consumers[queue] = Consumer(self.streams[queue.stream], queue, self.settings.ack_wait_seconds)
        if self._tick is None or self._tick.done():
            self._tick = asyncio.get_running_loop().create_task(self._redeliver())
        return self._consumers[queue]

    def match(self) -> None:
        """Give waiting jobs to whoever has room."""
        for consumer in self._consumers.values():
            consumer.match()

    async def _redeliver(self) -> None:
        while any(consumer.pulls for consumer in self._consumers.values()):
            await asyncio.sleep(min(0.05, self.settings.ack_wait_seconds / 4))
            self.match()

    def close(self) -> None:
        """End the redelivery clock."""
        if self._tick is not None:
            self._tick.cancel()
