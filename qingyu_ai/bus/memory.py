"""The in-memory twin of the broker: the same contract tests run on it and on a real nats-server.

It has what the protocol leans on: queue groups, no responders, streams with limits, compare-and-set, redelivery after the
acknowledgement wait, the payload limit, and a broker that goes away. It has no cluster and no disk.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable

from . import headers as wire
from .memory_broker import Broker, Follower, Interest, Pull, StoredMessage, Stream, matches
from .transport import (
    EXPECT,
    Backlog,
    Delivery,
    Headers,
    Hook,
    OnFrame,
    OnMessage,
    OnReply,
    Puller,
    Queue,
    Stored,
    Subscription,
    Usage,
    expecting,
    parse_ack,
)
from .transport_errors import Conflict, Disconnected, NoResponders, PayloadTooLarge, ReplyTimeout, StoreRefused


class MemoryBus:
    """See `transport.Bus`."""

    def __init__(self, broker: Broker, name: str = "memory") -> None:
        self._broker = broker
        self._tokens = itertools.count(1)
        self._waiting: dict[int, OnReply] = {}
        self.inbox = f"_INBOX.{name}.{secrets.token_hex(8)}"
        self.max_payload = broker.max_payload
        self._own = Interest(broker, f"{self.inbox}.*", "", self._on_inbox)
        broker.interests.add(self._own)
        self._open = True

    def on_reconnect(self, hook: Hook) -> None:
        """See `transport.Bus.on_reconnect`. Its connection is never another one."""

    @property
    def connections(self) -> int:
        """See `transport.Bus.connections`."""
        return 1

    @property
    def connected(self) -> bool:
        """See `transport.Bus.connected`."""
        return self._open and self._broker.up

    @property
    def waiting(self) -> int:
        """See `transport.Bus.waiting`."""
        return len(self._waiting)

    @property
    def unsent_bytes(self) -> int:
        """See `transport.Bus.unsent_bytes`."""
        return 0

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"") -> None:
        """See `transport.Bus.publish`."""
        self._check(len(data) + len(headers))
        received = wire.decode(headers) if headers else None
        heard = self._broker.deliver(subject, reply, data, received)
        stream = self._broker.stream_of(subject)
        if stream is not None:
            self._store_and_answer(stream, subject, data, received, reply)
        elif reply and not heard:
            self._broker.deliver(reply, "", b"", {wire.STATUS: "503"})

    def _check(self, size: int) -> None:
        if not self.connected:
            raise Disconnected("the broker is down")
        if size > self.max_payload:
            raise PayloadTooLarge(size, self.max_payload)

    def _store_and_answer(self, stream: Stream, subject: str, data: bytes, headers: Headers | None, reply: str) -> None:
        expect = (headers or {}).get(EXPECT)
        try:
            ack = b'{"stream":"%s","seq":%d}' % (
                stream.plan.name.encode(),
                stream.put(subject, data, headers, int(expect) if expect is not None else None),
            )
        except Conflict:
            ack = b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence"}}'
        except StoreRefused as e:
            ack = b'{"error":{"code":400,"err_code":%d,"description":"%s"}}' % (e.code, e.description.encode())
        if reply:
            self._broker.deliver(reply, "", ack, None)
        self._broker.match()

    def request(self, subject: str, data: bytes, on_reply: OnReply, *, headers: bytes = b"") -> int:
        """See `transport.Bus.request`."""
        token = next(self._tokens)
        self._waiting[token] = on_reply
        try:
            self.publish(subject, data, reply=f"{self.inbox}.{token}", headers=headers)
        except BaseException:
            self.forget(token)
            raise
        return token

    def forget(self, token: int) -> None:
        """See `transport.Bus.forget`."""
        self._waiting.pop(token, None)

    def _on_inbox(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        on_reply = self._waiting.pop(int(subject.rpartition(".")[2]), None)
        if on_reply is not None:
            on_reply(data, headers)

    async def ask(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b""
    ) -> tuple[bytes, Headers | None]:
        """See `transport.Bus.ask`."""
        answer: asyncio.Future[tuple[bytes, Headers | None]] = asyncio.get_running_loop().create_future()

        def arrived(data: bytes, headers: Headers | None) -> None:
            if not answer.done():
                answer.set_result((data, headers))

        token = self.request(subject, data, arrived, headers=headers)
        try:
            async with asyncio.timeout(timeout):  # `wait_for` would swallow a cancellation
                await asyncio.sleep(0)  # as over a wire: nobody is answered before others have had their turn
                body, reply_headers = await answer
        except TimeoutError:
            raise ReplyTimeout(f"no reply from {subject} within {timeout:.3g} s") from None
        finally:
            self.forget(token)
        if reply_headers and reply_headers.get(wire.STATUS) == "503" and not body:
            raise NoResponders(subject)
        return body, reply_headers

    async def store(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b"", expect: int | None = None
    ) -> int:
        """See `transport.Bus.store`."""
        if expect is not None:
            headers = expecting(expect)
        try:
            body, _ = await self.ask(subject, data, timeout=timeout, headers=headers)
        except NoResponders:
            raise StoreRefused(subject, 503, "no stream captures this subject") from None
        return parse_ack(subject, body)

    async def last(self, stream: str, subject: str, *, timeout: float, newest: bool = False) -> Stored | None:
        """See `transport.Bus.last`."""
        found = await self._read(stream, lambda s: s.last_of(subject))
        return Stored(found.subject, found.sequence, found.data) if found else None

    async def next(self, stream: str, subject: str, sequence: int, *, timeout: float) -> Stored | None:
        """See `transport.Bus.next`."""
        found = await self._read(stream, lambda s: s.first_of(subject, sequence))
        return Stored(found.subject, found.sequence, found.data) if found else None

    async def _read(self, stream: str, find: Callable[[Stream], StoredMessage | None]) -> StoredMessage | None:
        self._check(0)
        await asyncio.sleep(0)
        found = self._broker.streams.get(stream)
        if found is None:
            raise StoreRefused(stream, 503, "the stream is not there")
        return find(found)

    async def drop(self, stream: str, subject: str, *, timeout: float) -> None:
        """See `transport.Bus.drop`."""
        self._check(0)
        source = self._broker.streams[stream]
        for message in [m for m in source.messages.values() if matches(subject, m.subject)]:
            source.drop(message.sequence)

    async def subscribe(self, subject: str, handler: OnMessage, *, queue: str = "") -> Subscription:
        """See `transport.Bus.subscribe`."""
        interest = Interest(self._broker, subject, queue, handler)
        self._broker.interests.add(interest)
        return interest

    async def follow(
        self, stream: str, subject: str, handler: OnFrame, on_stream: Callable[[str], None], *, from_start: bool
    ) -> Subscription:
        """See `transport.Bus.follow`."""
        source = self._broker.streams[stream]
        on_stream(source.generation)
        follower = Follower(source, subject, handler, self._broker, on_stream)
        source.followers.add(follower)
        if from_start:
            for message in source.messages.values():
                follower.offer(message)
        return follower

    async def pull(self, queue: Queue, free: Callable[[], int], handler: Callable[[Delivery], None]) -> Puller:
        """See `transport.Bus.pull`."""
        consumer = self._broker.consumer(queue)
        pull = Pull(self._broker, consumer, free, handler)
        consumer.pulls.append(pull)
        consumer.match()
        return pull

    async def generation(self, stream: str) -> str:
        """See `transport.Bus.generation`."""
        return self._broker.streams[stream].generation

    async def used(self, stream: str) -> Usage:
        """See `transport.Bus.used`."""
        source = self._broker.streams[stream]
        oldest = next(iter(source.messages.values()), None)
        return Usage(
            source.used,
            source.plan.bytes,
            oldest.at if oldest else 0,
            source.created,
            source.generation,
            len(source.messages),
        )

    async def backlog(self, queue: Queue) -> Backlog:
        """See `transport.Bus.backlog`."""
        return self._broker.consumer(queue).backlog()

    async def close(self) -> None:
        """See `transport.Bus.close`."""
        self._open = False
        self._broker.interests.discard(self._own)
