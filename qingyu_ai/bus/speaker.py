"""Says what a worker says on one call, in acknowledged frames, at most one of them unacknowledged.

What waits for an acknowledgement meanwhile goes out together in the next frame: this is where streams coalesce.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from .chunks import Shape, encode, merge
from .errors import BusDown, TooLarge
from .transport import Bus, Headers, parse_ack
from .transport_errors import PayloadTooLarge, TransportError

log = structlog.get_logger(__name__)

MAX_CHUNK = 4 * 1024 * 1024 - 64 * 1024
"""Bytes of one chunk: what a gRPC client receives by default, less some room for the frame around it."""


class Speaker:
    """The voice of one claim.

    Args:
        bus: the broker.
        inbox: the subject of the call's log.
        epoch: the revision that the claim was given.
        worker: the token under which this worker hears credit.
        shape: of the stream's messages; None for a unary row, which only ends.
        settings: times and sizes.
        base: where this epoch goes on.
        heeds_credit: somebody shows what is said to a caller, who may be slow.
    """

    def __init__(
        self,
        bus: Bus,
        inbox: str,
        epoch: int,
        worker: str,
        shape: Shape | None,
        settings: BusSettings,
        *,
        base: int = 0,
        heeds_credit: bool = True,
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._epoch = epoch
        self._worker = worker
        self._shape = shape
        self._settings = settings
        self.next = base
        """The number of the next delta: how many were said on the call."""
        self._sent = self._stored = base
        self._based = False
        self._heeds_credit = heeds_credit
        self._granted = base + settings.window_frames
        self._said_bytes = 0
        self._pending: list[tuple[Any, int]] = []
        self._pending_bytes = 0
        self._closing: bus_pb2.Frame | None = None
        self._flying: bytes | None = None
        self._flight = 0
        self._flight_tokens: list[int] = []
        self._first_sent = self._last_sent = time.monotonic()
        self._starved_since = 0.0
        self.last_sequence = 0
        """Stream sequence of the last acknowledged frame."""
        self._waiters: list[asyncio.Future[None]] = []
        self._broken: Exception | None = None

    def __repr__(self) -> str:
        state = "broken" if self._broken else "waiting for an ack" if self._flying else "idle"
        return f"<Speaker {self._inbox} epoch {self._epoch}: {self.next} said, {len(self._pending)} pending, {state}>"

    @property
    def broken(self) -> bool:
        """Whether the log has stopped to store, or the claim was given up."""
        return self._broken is not None

    @property
    def stored(self) -> int:
        """How many deltas of the call the log is known to have."""
        return self._stored

    @property
    def unheard(self) -> bool:
        """Whether a frame was sent again and is still not acknowledged: the way to the log is broken, or the log is."""
        return self._flying is not None and self._last_sent > self._first_sent

    @property
    def waiting(self) -> int:
        """Deltas that wait for the acknowledgement of those before."""
        return len(self._pending)

    def say(self, chunk: Any) -> bool:
        """Say one delta.

        Returns:
            Whether there is room for the next one; otherwise the log or the reader is slow: wait for `room` first.

        Raises:
            TooLarge: the chunk is larger than a caller can receive, or the call has used up its room in the log.
            BusDown: the log has not stored anything for `patience_seconds`.
        """
        if self._broken is not None:
            raise self._broken
        assert self._shape is not None, "a unary row has no chunks"
        self._shape.number(chunk, self.next)
        size: int = chunk.ByteSize()
        if size > MAX_CHUNK:
            raise TooLarge("A chunk of the answer", "回答的一段", size, MAX_CHUNK)
        self._said_bytes += size
        if self._said_bytes > self._settings.call_log_bytes:
            raise TooLarge("The answer", "回答", self._said_bytes, self._settings.call_log_bytes)
        self.next += 1
        self._pending.append((chunk, 1))
        self._pending_bytes += size
        if self._flying is None:
            self._send()
        return self._has_room()

    def _has_room(self) -> bool:
        if self._heeds_credit and self.next >= self._granted:
            self._starved_since = self._starved_since or time.monotonic()
            return False
        self._starved_since = 0.0
        return len(self._pending) < self._settings.window_frames and self._pending_bytes < self._settings.window_bytes

    async def room(self) -> None:
        """Wait until there is room for another delta.

        Raises:
            BusDown: the log has not stored anything for `patience_seconds`.
        """
        while self._broken is None and not self._has_room():
            await self._wait()
        if self._broken is not None:
            raise self._broken

    def _wait(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def grant(self, up_to: int) -> None:
        """Take credit: cumulative, the largest counts."""
        if up_to > self._granted:
            self._granted = up_to
            self._wake()

    async def flush(self) -> None:
        """Wait until everything said is stored.

        Raises:
            BusDown: the log has not stored anything for `patience_seconds`.
        """
        while self._broken is None and (self._flying is not None or self._pending or self._closing is not None):
            await self._wait()
        if self._broken is not None:
            raise self._broken

    async def fence(self) -> int:
        """Close the log to lower epochs.

        Returns:
            The stream sequence of the fence: what lower epochs stored before it is part of the call.
        """
        self._close_with(bus_pb2.Frame(fence=bus_pb2.Fence()))
        await self.flush()
        return self.last_sequence

    async def end(self, end: bus_pb2.End) -> None:
        """Say the last word, and wait until it is stored."""
        self._close_with(bus_pb2.Frame(end=end))
        await self.flush()

    def _close_with(self, frame: bus_pb2.Frame) -> None:
        self._closing = frame
        if self._flying is None:
            self._send()

    def start_at(self, base: int, said_bytes: int = 0) -> None:
        """After a fence: where this epoch goes on.

        Args:
            said_bytes: what the call has used of its room in the log.
        """
        self._said_bytes = said_bytes
        self.next = self._sent = self._stored = base
        self._granted = base + self._settings.window_frames

    def _send(self) -> None:
        frame = bus_pb2.Frame(epoch=self._epoch, seq=self._sent)
        if self._pending:
            assert self._shape is not None
            encoded, spans = merge(self._shape, self._pending) if self._settings.merge else encode(self._pending)
            frame.data.chunk.extend(encoded)
            if len(encoded) != len(self._pending):
                frame.data.span.extend(spans)
            self._sent += len(self._pending)
            self._pending, self._pending_bytes = [], 0
        elif self._closing is not None:
            frame.MergeFrom(self._closing)
            self._closing = None
        else:
            frame.beat.SetInParent()
            frame.worker = self._worker
        if not self._based and not frame.HasField("beat") and not frame.HasField("fence"):
            self._based = True
            frame.base = frame.seq
            frame.worker = self._worker
        self._flying = frame.SerializeToString()
        self._flight += 1
        self._publish()
        self._first_sent = self._last_sent

    def _publish(self) -> None:
        assert self._flying is not None
        self._last_sent = time.monotonic()
        try:
            token = self._bus.request(self._inbox, self._flying, functools.partial(self._on_ack, self._flight))
        except PayloadTooLarge as e:
            self._break(TooLarge("A part of the answer", "回答的一段", e.size, e.limit))
        except TransportError:
            pass  # `tick` sends it again
        else:
            self._flight_tokens.append(token)

    def _on_ack(self, flight: int, data: bytes, headers: Headers | None) -> None:
        if flight != self._flight or self._flying is None:
            return
        try:
            self.last_sequence = parse_ack(self._inbox, data)
        except TransportError as e:
            log.warning("frame_refused", log=self._inbox, error=str(e))
            return  # `tick` sends it again
        self._stored = self._sent
        self._landed()
        if self._pending or self._closing is not None:
            self._send()
        self._wake()

    def _landed(self) -> None:
        self._flying = None
        for token in self._flight_tokens:
            self._bus.forget(token)
        self._flight_tokens.clear()

    def tick(self, now: float) -> None:
        """Keep time: send again what was not acknowledged, beat after a silence, give up after a lease.

        Args:
            now: `time.monotonic()`.
        """
        s = self._settings
        if self._broken is not None:
            return
        if self._flying is not None:
            # Not without another try: a process that was frozen has not read yet what was answered meanwhile.
            if now - self._first_sent > s.patience_seconds and self._last_sent > self._first_sent:
                self._break(BusDown("the log does not store"))
            elif now - self._last_sent > s.frame_ack_seconds:
                self._publish()
        elif now - self._last_sent > s.beat_seconds:
            self._send()
        if self._starved_since and now - self._starved_since > s.lease_seconds:
            # Credit is advice. A reader that is gone must not stop a job: it goes on into the log.
            self._granted = self.next + s.window_frames
            self._starved_since = 0.0
            self._wake()

    def _break(self, why: Exception) -> None:
        self._broken = why
        self._landed()
        self._wake()

    def close(self) -> None:
        """Say nothing more, whatever is left."""
        if self._broken is None:
            self._break(BusDown("the claim was given up"))

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
