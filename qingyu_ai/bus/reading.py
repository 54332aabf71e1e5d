"""One call as its reader sees it: frames in, chunks and an end out, in a bounded room.

The reader holds at most a window. What does not fit is left in the log and read again from there, so a slow caller costs
no memory; the same reading again mends a hole.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import subjects, topology
from .errors import BusDown, Fault, Lost
from .fold import Position, Verdict, fold
from .patience import patiently
from .transport import Bus, Stored, Subscription
from .transport_errors import TransportError

log = structlog.get_logger(__name__)

Chunk = tuple[bytes, int]
"""An encoded stream message and how many deltas it covers."""


class Reading:
    """A reader of one call.

    Args:
        bus: the broker.
        call: the call id.
        inbox: the subject (or filter) of the call's log.
        settings: times and sizes.
        digest: of the request, to be compared with the record's.
        request_id: for errors that name it.
        reopened: the revision of the call's decision that was reopened last.
        silent: only the end is wanted: it has all of the answer, and what is said before are notes for another worker.
    """

    def __init__(
        self,
        bus: Bus,
        call: str,
        inbox: str,
        settings: BusSettings,
        digest: bytes = b"",
        request_id: str = "",
        reopened: int = 0,
        *,
        silent: bool = False,
    ) -> None:
        self._bus = bus
        self.call = call
        self.inbox = inbox
        self.digest = digest
        self.request_id = request_id
        self._settings = settings
        self._at = Position(reopened=reopened)
        self._held: deque[Chunk] = deque()
        self._held_bytes = 0
        self._silent = silent
        self._waiter: asyncio.Future[None] | None = None
        self._fault: Fault | None = None
        self.end: bus_pb2.End | None = None
        self.heard = time.monotonic()
        """When the current worker was last heard."""
        self.worker = ""
        """Where it hears credit."""
        self.taken = 0
        """The number of the next delta that the caller has not taken yet."""
        self.granted = settings.window_frames
        self._live_sequence = 0
        self._behind = 0
        """Stream sequence from which the log must be read again; 0: the reader is level with it."""
        self._mended = False
        self._seeks_end = False
        self.unsure = False
        """It has read the log without its consumer, and has not asked since whether that was the log that it takes it for."""
        self._decided: bus_pb2.End | None = None
        self.apart = False
        """Read by a consumer of its own, not by the bridge's: another request began the call."""
        self.own_follower: Subscription | None = None
        """That consumer, once it is there."""
        self.queue = ""
        """The stream in which the call's job waits until it is claimed; empty: it is known to be claimed."""
        self.stores = False
        """Its own request stored the job."""
        self._log = ""
        """The log that its text is in; empty: not known yet."""
        self._there = ""
        """The log that is there now."""
        self.began = time.time()

    def __repr__(self) -> str:
        state = "ended" if self.end is not None else "behind" if self._behind else "live"
        return f"<Reading {self.call} at {self._at.next} of epoch {self._at.epoch}: {state}, {len(self._held)} held>"

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.end is not None or self._fault is not None

    @property
    def astray(self) -> bool:
        """Whether the log was lost and made anew. What is said in the new one is not taken before the record has been asked
        whose word counts there: its fences are gone with the old one.
        """
        return self._log != self._there and not self._silent

    def is_there(self, log: str) -> bool:
        """Whether this is the log that is there now."""
        return log == self._there

    def expect(self, log: str) -> None:
        """Its call speaks in this log, as its record says. To be said before the reader is told which log is there."""
        self._log = log

    def reads(self, log: str) -> None:
        """This is the log that is there."""
        self._there = log
        if not self._log:
            self._log = log
        elif self.astray:
            self._live_sequence = 0
            self._ask_record()

    def settle(self) -> None:
        """What the log that is there now says of the call goes on where this reader stands."""
        self._log = self._there
        if not self._at.next:
            self._at = Position(reopened=self._at.reopened)
        self._behind, self._mended, self.unsure = 1, False, False
        self._wake()

    @property
    def heard_anything(self) -> bool:
        """Whether a worker has spoken on the call."""
        return self._at.epoch > 0

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the caller."""
        return self._held_bytes

    @property
    def position(self) -> Position:
        """Where the fold stands."""
        return self._at

    def on_frame(self, sequence: int, data: bytes) -> None:
        """Take a frame from the log, as the bridge's consumer delivers it."""
        self._live_sequence = sequence
        if self.astray:
            self._ask_record()
        elif self._behind:
            self.heard = time.monotonic()
        elif self.end is None and self._fault is None:
            self._take(bus_pb2.Frame.FromString(data), sequence)

    def _take(self, frame: bus_pb2.Frame, sequence: int) -> None:
        if len(self._held) >= self._settings.window_frames or self._held_bytes >= self._settings.window_bytes:
            self._behind = sequence
            return
        if frame.HasField("elsewhere"):
            self._ask_record()
            return
        if self._silent:
            self._take_end(frame)
            return
        self._at, verdict = fold(self._at, frame)
        if verdict is Verdict.IGNORE:
            return
        self.heard = time.monotonic()
        if frame.worker:
            self.worker = frame.worker
        if verdict is Verdict.SHOW:
            spans = frame.data.span or [1] * len(frame.data.chunk)
            self._held.extend(zip(frame.data.chunk, spans, strict=True))
            self._held_bytes += sum(map(len, frame.data.chunk))
            self._wake()
        elif verdict is Verdict.END:
            self.end = frame.end
            self._wake()
        elif verdict is Verdict.HOLE and self._mended and not self._at.next:
            pass  # the rest of a text whose log was lost; whoever takes its call over begins anew, where this reader stands
        elif verdict is Verdict.HOLE:
            self._mend("frames are missing")
        elif verdict is Verdict.LOST:
            self.fail(Lost("the log and what was shown differ"))

    def _take_end(self, frame: bus_pb2.Frame) -> None:
        """An end is said after the commit, so it counts wherever it comes from, unless the call was reopened after it."""
        if frame.epoch < self._at.epoch:
            return
        self._at = Position(frame.epoch, reopened=self._at.reopened)
        self.heard = time.monotonic()
        if frame.HasField("end") and not (frame.end.status and frame.epoch <= self._at.reopened):
            self.end = frame.end
            self._wake()

    def _ask_record(self) -> None:
        """Have the next look at the clock take this call for silent."""
        self.heard = -math.inf

    def _mend(self, why: str) -> None:
        if self._mended:
            self.fail(Lost(why))
            return
        # Once: what the consumer did not show may still be in the log; or in another one, if the call ran for another request.
        if not self.heard_anything:
            self.inbox = subjects.logs_of_call(self.call)
        self._mended = True
        self._behind = 1
        log.warning("stream_hole", call=self.call, at=self._at.next, why=why)
        self._wake()

    def look_again(self) -> None:
        """The record says that the call has ended, but its end was not heard: read the log again."""
        self._seeks_end = True
        self.heard = time.monotonic() - self._settings.lease_seconds / 2  # a caller who does not read may take its time
        if self.end is None and not self._behind:
            self._mend("the end is missing")

    def ends_with(self, end: bus_pb2.End) -> None:
        """The end is known from the record. What is left of the log comes before it."""
        if self._behind and not self.astray:
            self._decided = end
            self._wake()
        else:
            self.finish(end)

    def finish(self, end: bus_pb2.End) -> None:
        """The end is known from the record."""
        if self.end is None:
            self.end = end
            self._wake()

    def replay(self, end: bus_pb2.End, log: str) -> None:
        """The call is decided: read its log from the start, without a consumer, and end as the record says where the log does
        not.

        Args:
            log: the one that is there.
        """
        self.apart, self._log, self._there = True, log, log
        self._decided = end
        self._behind = 1

    def fail(self, fault: Fault) -> None:
        """The stream cannot go on. What is held is still shown first."""
        if self._fault is None and self.end is None:
            self._fault = fault
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> list[Chunk]:
        """Wait for the next chunks.

        Returns:
            All that is held; empty: the call has ended, see `end`.

        Raises:
            Fault: the stream is broken. Everything before was right.
        """
        while not self._held:
            if self._behind and self.end is None and self._fault is None:
                await self._catch_up()
                continue
            if self._fault is not None:
                raise self._fault
            if self.end is not None:
                await self._make_sure(self.end)
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks = list(self._held)
        self._held.clear()
        self._held_bytes = 0
        self.taken += sum(span for _, span in chunks)
        return chunks

    async def _make_sure(self, end: bus_pb2.End) -> None:
        """See that a text that ends well is of one log: its consumer may not have told yet of a loss.

        Raises:
            Fault: it is not, or the broker does not answer.
        """
        if not self.unsure or not self._log or end.status or self._silent:
            return
        try:
            log_name = await patiently(lambda: self._bus.generation(topology.LOG), self._settings.patience_seconds)
        except TransportError as e:
            raise BusDown.of(e) from None
        if log_name != self._log:
            raise Lost("its log was lost while it was read")
        self.unsure = False

    async def wait_end(self) -> bus_pb2.End:
        """Wait for the end of a unary row.

        Raises:
            Fault: the log is broken.
        """
        while self.end is None:
            await self.take()
        return self.end

    async def _catch_up(self) -> None:
        """Read the log from where the reader left it, until it is level with what the consumer delivers."""
        while self.end is None and self._fault is None:
            sequence = self._behind
            try:
                stored = await self._next(sequence)
            except TransportError as e:
                self.fail(BusDown.of(e))
                return
            if self.astray:
                self._behind = 0
                return
            if stored is None and self._decided is not None:
                self._behind = 0
                self._end_replay(self._decided)
                return
            if stored is None:
                self._behind = 0
                if sequence <= self._live_sequence:
                    self.fail(Lost("the log no longer holds it"))
                return
            self._behind, self.unsure = 0, True
            self._take(bus_pb2.Frame.FromString(stored.data), stored.sequence)
            if self._behind:
                return  # the room is full, or there is a hole: again from there, after the caller has taken what is held
            if self._decided is None and stored.sequence >= self._live_sequence and not self._seeks_end:
                return
            self._behind = stored.sequence + 1  # what arrives while we wait must not be taken out of order
            if self._held:
                return

    def _end_replay(self, end: bus_pb2.End) -> None:
        if end.status or end.count == self._at.next:
            self.finish(end)
        else:
            self.fail(Lost("its log has expired"))

    async def _next(self, sequence: int) -> Stored | None:
        """The next frame in the log; a replica that lags behind what was delivered, or counted, already is asked again."""
        counted = self._decided is not None and self._decided.count > self._at.next
        for delay in (0.0, 0.02, 0.1, 0.3):
            await asyncio.sleep(delay)
            stored = await patiently(
                lambda: self._bus.next(topology.LOG, self.inbox, sequence, timeout=self._settings.store_seconds),
                self._settings.patience_seconds,
            )
            if stored is not None or not (counted or sequence <= self._live_sequence):
                break
        return stored
