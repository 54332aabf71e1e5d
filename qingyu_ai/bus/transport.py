"""What the bus protocol needs of a broker. `connection` gives it over NATS, `memory` within one process; both pass the
same contract tests (tests/bus/test_transport.py).

Handlers are plain functions, called one message at a time on the event loop: they must not wait and must not raise.
Work that takes time is started as a task by the handler's owner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from . import headers as wire
from .transport_errors import Conflict, StoreRefused

Headers = Mapping[str, str]
"""As they are received. They are sent as an encoded block, which `headers.encode` makes."""

OnMessage = Callable[[str, str, bytes, Headers | None], None]
"""(subject, reply, data, headers)."""

OnReply = Callable[[bytes, Headers | None], None]
"""(data, headers) of a reply. A request that nobody listens to is answered with the header `Status: 503`."""

Hook = Callable[[], Awaitable[None]]
"""Done after a reconnection."""

OnFrame = Callable[[str, int, bytes], None]
"""(subject, stream sequence, data) of a stored message."""


EXPECT = "Nats-Expected-Last-Subject-Sequence"
"""The header of a compare-and-set: the sequence that the last message on the subject must have (0: there is none)."""

WRONG_SEQUENCE = (10071, 10164)
"""JetStream's error codes for a compare-and-set that found another sequence: stored already, or (only in a cluster) on its way
to the other servers."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a stream, or a key-value entry (whose revision is the sequence)."""

    subject: str
    sequence: int
    data: bytes


class Subscription(Protocol):
    """Interest in a subject."""

    async def stop(self) -> None:
        """End the interest."""


class Delivery(Protocol):
    """One delivery of a job message. Exactly one of `ack`, `nak` and `term` ends it; until then `in_progress` holds it."""

    subject: str
    data: bytes
    headers: Headers | None
    sequence: int
    """Of the message in its queue; the same at every delivery."""
    delivery: int
    """Counts from 1."""
    stored_ns: int
    """When it was stored, unix nanoseconds by the broker's clock."""

    def ack(self) -> None:
        """The job is done: the queue forgets it."""

    def nak(self, delay_seconds: float = 0) -> None:
        """Deliver it again, after a delay."""

    def term(self) -> None:
        """Never deliver it again."""

    def in_progress(self) -> None:
        """Start the acknowledgement clock anew."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue as one kind of worker sees it."""

    stream: str
    consumer: str
    subject: str


class Puller(Protocol):
    """A standing request for jobs."""

    def renew(self) -> None:
        """Slots may have become free: ask for as many jobs as fit."""

    async def stop(self) -> None:
        """Ask for no more. Deliveries already made go on."""


class Bus(Protocol):
    """One process's connection to the broker."""

    max_payload: int
    """Bytes of headers and payload together that one message may have."""

    @property
    def connections(self) -> int:
        """How often there was a new connection: a broker may have lost streams, and made them anew, between two of them."""

    @property
    def connected(self) -> bool:
        """Whether something published now would be sent now."""

    @property
    def waiting(self) -> int:
        """Requests without a reply yet."""

    @property
    def unsent_bytes(self) -> int:
        """What was published and waits for the broker to take it."""

    def on_reconnect(self, hook: Hook) -> None:
        """Have something done after each new connection but the first."""

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"") -> None:
        """Send and forget.

        Raises:
            Disconnected: there is no connection; nothing was sent.
            PayloadTooLarge: nothing was sent, and the connection is unharmed.
        """

    def request(self, subject: str, data: bytes, on_reply: OnReply, *, headers: bytes = b"") -> int:
        """Send, and have `on_reply` called with the first reply. For those who keep their own time.

        Returns:
            A token for `forget`.

        Raises:
            Disconnected, PayloadTooLarge: as `publish`.
        """

    def forget(self, token: int) -> None:
        """A reply is no longer wanted."""

    async def ask(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b""
    ) -> tuple[bytes, Headers | None]:
        """Send and wait for the first reply.

        Raises:
            NoResponders: nobody listens.
            ReplyTimeout: no reply within `timeout` seconds.
            Disconnected, PayloadTooLarge: as `publish`.
        """

    async def store(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b"", expect: int | None = None
    ) -> int:
        """Put a message into the stream that captures its subject.

        Args:
            expect: compare-and-set: the sequence of the last message on this subject (0: there is none). Not with headers.

        Returns:
            Its sequence.

        Raises:
            Conflict: `expect` does not hold.
            StoreRefused: the stream is full or missing.
            ReplyTimeout: no acknowledgement in time; the message may be stored.
            Disconnected, PayloadTooLarge: as `publish`.
        """

    async def last(self, stream: str, subject: str, *, timeout: float, newest: bool = False) -> Stored | None:
        """Read the last message on a subject (for a key-value bucket: the value of a key).

        Args:
            newest: from the stream's leader. Otherwise any copy answers, and may be a moment behind.

        Raises:
            ReplyTimeout, StoreRefused, Disconnected.
        """

    async def next(self, stream: str, subject: str, sequence: int, *, timeout: float) -> Stored | None:
        """Read the first message on a subject at or after a sequence.

        Raises:
            ReplyTimeout, StoreRefused, Disconnected.
        """

    async def drop(self, stream: str, subject: str, *, timeout: float) -> None:
        """Remove every message on a subject from a stream.

        Raises:
            ReplyTimeout, StoreRefused, Disconnected.
        """

    async def subscribe(self, subject: str, handler: OnMessage, *, queue: str = "") -> Subscription:
        """Hear what is published on a subject; one member of a queue group hears each message."""

    async def follow(
        self, stream: str, subject: str, handler: OnFrame, on_stream: Callable[[str], None], *, from_start: bool
    ) -> Subscription:
        """Read a stream in its order, without a gap, across reconnections, from its start or from now.

        Args:
            on_stream: told the stream's generation before its first message comes: at once, and again when the stream was lost
                and made anew. From a new one all messages come.
        """

    async def pull(self, queue: Queue, free: Callable[[], int], handler: Callable[[Delivery], None]) -> Puller:
        """Hold a standing request for jobs, never for more than `free()` slots."""

    async def generation(self, stream: str) -> str:
        """When a stream was made: a stream that was lost and made anew has another generation."""

    async def used(self, stream: str) -> Usage:
        """How full a stream is."""

    async def backlog(self, queue: Queue) -> Backlog:
        """How many jobs a queue has, as its leader knows it: a copy may be behind, and then says too few or too many.

        Raises:
            ReplyTimeout, StoreRefused, Disconnected.
        """

    async def close(self) -> None:
        """End the connection."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a stream is."""

    bytes: int
    max_bytes: int
    oldest_unix: float
    """When its oldest message was stored; 0: it is empty."""
    created_unix: float = 0.0
    """When the stream was made."""
    generation: str = ""
    """See `Bus.generation`."""
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs of a queue."""

    waiting: int
    """Given to no worker yet."""
    claimed: int
    """Given to workers, and not done."""


def expecting(sequence: int) -> bytes:
    """The header block of a compare-and-set."""
    return f"{wire.VERSION_LINE}\r\n{EXPECT}: {sequence}\r\n\r\n".encode()


def parse_ack(subject: str, body: bytes) -> int:
    """Read a stream's acknowledgement.

    Raises:
        Conflict: the compare-and-set failed.
        StoreRefused: the stream did not take the message, or there is none.
    """
    if not body:
        raise StoreRefused(subject, 503, "no stream captures this subject")
    ack = msgspec.json.decode(body)  # one for each frame and event: json's own takes 6 µs
    error = ack.get("error")
    if error is None:
        return int(ack["seq"])
    code = error.get("err_code", 0)
    if code in WRONG_SEQUENCE:
        raise Conflict(subject)
    raise StoreRefused(subject, code, error.get("description", ""))
