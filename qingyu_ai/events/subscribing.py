"""Subscribing: `async for event in subscribe(servers)`. An event is acknowledged when the loop comes back for the next one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, cast

import structlog

from qingyu_ai.bus import consumers, topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.consumers import Consumers, Start
from qingyu_ai.bus.pull import NatsDelivery
from qingyu_ai.bus.stream_api import StreamApi
from qingyu_ai.bus.transport import Delivery, Puller, Queue
from qingyu_ai.bus.transport_errors import StoreRefused, TransportError
from qingyu_ai.doors.login import Login

from .filters import filters_of, let_through
from .received import Event, read

log = structlog.get_logger(__name__)

NOW = consumers.NEW
"""Begin with what happens from now on."""

BEGINNING = consumers.ALL
"""Begin with the oldest event that there is."""

Since = Start | datetime | int
"""Where to begin: NOW, BEGINNING, a time, or the sequence of an event in the stream."""

ACK_WAIT_SECONDS = 30.0
"""After which an event comes again whose subscriber is gone. One that is there says all the while that it is."""

LOOK_SECONDS = 1.0

ENDING_SECONDS = 0.1
"""Between two looks at whether all is handled that is to be."""

HELD = 512
"""Events that a subscriber holds at once."""

DURABLE = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Unreachable(Exception):
    """There are no events to be had where they were looked for. The message says why, in English and Chinese."""


class Subscription:
    """Events, as they come. One loop reads them; several processes that name one `durable` share them.

    It connects when the loop begins, or with `async with`, and stays connected: what it misses meanwhile comes afterwards.
    """

    def __init__(
        self,
        servers: Sequence[str],
        filters: Sequence[str],
        since: Start,
        durable: str,
        *,
        typed: bool,
        follow: bool,
        login: Login | None = None,
    ) -> None:
        self._servers = list(servers)
        self._login = login
        self._filters = list(filters)
        self._since = since
        self._durable = durable
        self._typed = typed
        self._until = None if follow else 0
        """The last event before it began, in the stream; None: it does not end."""
        self._name = durable or f"reader-{secrets.token_hex(8)}"
        self._bus: NatsBus | None = None
        self._consumers: Consumers | None = None
        self._puller: Puller | None = None
        self._watch: asyncio.Task[None] | None = None
        self._waiting: deque[NatsDelivery] = deque()
        self._given: deque[int] = deque(maxlen=2 * HELD)
        """Sequences of the last that were handled: while we did not listen they may have been sent again."""
        self._after = 0
        """The lowest place, in the consumer's order, of what came after the end of one that ends; 0: nothing did."""
        self._current: NatsDelivery | None = None
        self._wake = asyncio.Event()
        self._generation = ""
        self._pending = 0
        self._moved = 0.0
        """When it began, or last went on."""
        self._done = 0
        """All up to here need not come again, if the consumer is lost: what the broker last said, or, of a subscription that
        nobody shares, the last one that was given out."""
        self._closed = self._lost_for_good = False

    def __repr__(self) -> str:
        return f"<Subscription {self._name}: {self.lag} behind, at {self._done}>"

    @property
    def lag(self) -> int:
        """Events that have happened and were not handled yet. Known when an event comes, and looked up once a second."""
        return self._pending + len(self._waiting) + (self._current is not None)

    async def __aenter__(self) -> Subscription:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        if self._closed:
            raise Unreachable("this subscription is closed: subscribe anew。订阅已关闭，请重新订阅")
        opened_here = self._bus is None
        if opened_here:
            await self._open()
        try:
            while (one := await self._next()) is not None:
                self._current = one
                if not self._durable:
                    self._done = max(self._done, one.sequence)
                yield read(one.subject, one.data, one.headers, one.sequence, one.delivery, typed=self._typed)
                assert self._puller is not None
                assert self._bus is not None
                if self._bus.connected:  # otherwise it comes again, and is known
                    one.ack()
                self._given.append(one.sequence)
                self._current, self._moved = None, time.monotonic()
                self._puller.renew()
        finally:
            if opened_here:
                await self.close()

    async def _next(self) -> NatsDelivery | None:
        """Wait for what is to be given out; None: that was all, or it was closed."""
        while not self._waiting:
            self._wake.clear()
            if self._closed:
                return None
            if self._lost_for_good:
                raise Unreachable(f"the connection to NATS is closed for good: {_shown(self._servers)}。连接已关闭")
            ends = self._until is not None and (not self._pending or self._after > 0)
            if ends and await self._is_at_its_end():
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENDING_SECONDS if ends else None):
                    await self._wake.wait()
        return self._waiting.popleft()

    async def _is_at_its_end(self) -> bool:
        """Whether all is handled that there was when it began.

        The broker is asked, because events may be gone by now, or come once more. What a reader before this one left comes again
        after a while, also behind newer ones; what does not come is in the hands of somebody else who shares this subscription.
        """
        assert self._consumers is not None
        try:
            found = await self._consumers.find(self._name)
        except TransportError:
            return False
        if found is None or self._waiting:
            return False
        given_out = found["num_pending"] == 0 or self._after > 0
        return given_out and (not self._is_left(found) or time.monotonic() - self._moved > 2 * ACK_WAIT_SECONDS)

    def _is_left(self, found: dict[str, Any]) -> bool:
        """Whether something up to the end was given to somebody, and not acknowledged. What came after it does not count."""
        assert self._until is not None
        floor = found["ack_floor"]
        if not found["num_ack_pending"] or floor["stream_seq"] >= self._until:
            return False
        # What is given out for the first time is so in the order of the stream: what is left has a place before this one.
        return not self._after or int(floor["consumer_seq"]) + 1 < self._after

    async def _open(self) -> None:
        try:
            self._bus = bus = await NatsBus.open(self._servers, "events", self._lost, self._login)
        except TransportError as e:
            raise Unreachable(f"{e}; is NATS running there? 无法连接消息总线") from None
        api = StreamApi(bus.ask)
        self._consumers = Consumers(api, topology.EVENTS, ACK_WAIT_SECONDS)
        self._moved = time.monotonic()
        try:
            self._generation, last = await api.span(topology.EVENTS)
            if self._until is not None:
                self._until = last
            made = await self._consumers.make(self._name, self._filters, self._since, durable=bool(self._durable))
            self._done, self._pending = int(made["ack_floor"]["stream_seq"]), int(made["num_pending"])
            queue = Queue(topology.EVENTS, self._name, "")
            self._puller = await bus.pull(queue, lambda: HELD - len(self._waiting), self._on_delivery)
        except TransportError as e:
            await self.close()
            if isinstance(e, StoreRefused) and e.code == consumers.NO_STREAM:
                raise Unreachable(
                    f"there is no stream {topology.EVENTS} at {_shown(self._servers)}: start a bridge or a worker once. "
                    "那里没有事件流，请先启动系统"
                ) from None
            raise Unreachable(f"the events cannot be read: {e}。无法读取事件") from None
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """End it. What was not acknowledged comes again, to a subscription of the same `durable`."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._watch is not None:
            self._watch.cancel()
        if self._puller is not None:
            await self._puller.stop()
        for one in self._held:
            one.nak()  # to whoever shares this subscription, or comes back to it
        self._waiting.clear()
        if self._bus is not None:
            if not self._durable and self._consumers is not None and self._bus.connected:
                with contextlib.suppress(TransportError):
                    await self._consumers.drop(self._name)
            await self._bus.close()

    @property
    def _held(self) -> list[NatsDelivery]:
        return [*([self._current] if self._current is not None else []), *self._waiting]

    def _lost(self) -> None:
        self._lost_for_good = True
        self._wake.set()

    def _on_delivery(self, delivery: Delivery) -> None:
        one = cast(NatsDelivery, delivery)  # of a NatsBus
        if one.delivery > 1:
            if not let_through(self._filters, one.subject) or one.sequence in self._given:
                one.ack()  # given to this durable before, when it had another filter; or handled
                return
            if any(held.sequence == one.sequence for held in self._held):
                return  # we were too busy to say that it is here
        if self._until is not None and one.sequence > self._until:
            # Not held: on a busy stream these would leave no room for what a reader before this one has left.
            one.nak(ACK_WAIT_SECONDS)
            self._after = min(self._after or one.place, one.place)
        else:
            self._waiting.append(one)
        self._pending = one.pending
        self._wake.set()

    async def _keep(self) -> None:
        """Say that what is held is being worked at, and see that there is a consumer."""
        rounds = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            rounds += 1
            if rounds % max(1, int(ACK_WAIT_SECONDS / 3)) == 0 and self._bus is not None and self._bus.connected:
                for one in self._held:
                    one.in_progress()
            try:
                await self._look()
            except TransportError as e:
                log.debug("events_not_seen", error=str(e))

    async def _look(self) -> None:
        assert self._bus is not None
        assert self._consumers is not None
        found = await self._consumers.find(self._name)
        if found is not None:
            self._pending = int(found["num_pending"])
            self._wake.set()  # the rest may be gone
            self._done = max(self._done, int(found["ack_floor"]["stream_seq"]))
            return
        # Its server was lost, or somebody has deleted it.
        generation = await self._bus.generation(topology.EVENTS)
        if generation != self._generation:
            self._generation, self._done = generation, 0  # another stream: it counts anew
            self._given.clear()
        self._waiting.clear()
        self._after = 0
        log.warning("events_consumer_made_anew", name=self._name, after=self._done)
        start = consumers.from_sequence(self._done + 1)
        await self._consumers.make(self._name, self._filters, start, durable=bool(self._durable))
        if self._puller is not None:
            self._puller.renew()


def subscribe(
    servers: str | Sequence[str],
    *,
    since: Since = NOW,
    durable: str = "",
    service: str | Iterable[str] = (),
    event: str | Iterable[str] = (),
    project: str | Iterable[str] = (),
    typed: bool = True,
    follow: bool = True,
    login: Login | None = None,
) -> Subscription:
    """Subscribe to events.

        async for event in subscribe("nats://127.0.0.1:4222", event="completed"):
            print(event.id, event.data.usage)

    Args:
        servers: of NATS: one address, several with commas between, or a list.
        since: where to begin. A durable subscription that is known goes on where it was instead.
        durable: the name under which the broker remembers how far this subscription has come; empty: it does not.
        service: only of these kinds of worker: chat, agent, rag, tool.
        event: only these, as docs/events.md names them: completed, failed.
        project: only of these projects, by their ids; `""` in a list: of none.
        typed: False: `Event.data` is the encoded message, four times as fast.
        follow: False: end with the last event that there is when it begins.
        login: with certificates of one's own (docs/security-nats.md); None: what the addresses say.

    Raises:
        ValueError: a name that there is not, or one that cannot be a consumer's.
    """
    addresses = servers.split(",") if isinstance(servers, str) else list(servers)
    if durable and not DURABLE.fullmatch(durable):
        raise ValueError(
            f"durable {durable!r} must be 1 to 64 letters, digits, _ and -。durable 须为 1 到 64 个字母、数字、_ 或 -"
        )
    filters = filters_of(service, event, project)
    match since:
        case Start():
            start = since
        case datetime():
            start = consumers.from_time(since)
        case _:
            start = consumers.from_sequence(since)
    return Subscription(
        [a.strip() for a in addresses if a.strip()], filters, start, durable, typed=typed, follow=follow, login=login
    )


def _shown(servers: Sequence[str]) -> str:
    return ", ".join(server.rpartition("@")[2] for server in servers)
