"""The asking side: what a bridge does with a call. Rpc rows are asked, job rows are stored and read from the log."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any

import structlog

from qingyu_ai.routes import Job, Route
from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import record, subjects, topology
from .asking import ask
from .discovery import Presence
from .errors import BusDown, Fault, Lost, NotFound, NoWorker, Overloaded, SameIdOtherBody, fault_of
from .headers import Envelope
from .observing import NOBODY, Observed, Observer
from .readers import Readers
from .reading import Reading
from .record import Attach, Entry
from .records import Records
from .storing import Request, Storing
from .transport import Bus
from .transport_errors import Conflict, TransportError

log = structlog.get_logger(__name__)

ATTACH_TRIES = 5
"""How often a record is read that others reopen at the same time."""

FOLLOW_EVERY = 0.25
"""Seconds between two looks at a call that waits for its first worker."""


class Caller:
    """One bridge process on the bus. Its observer is told what happens."""

    def __init__(self, bus: Bus, settings: BusSettings, presence: Presence, observer: Observer = NOBODY) -> None:
        self.bus = bus
        self._settings = settings
        self._observer = observer
        self.presence = presence
        self.token = secrets.token_hex(6)
        self.records = Records(bus, settings)
        self.readers = Readers(bus, settings, self.records, self.token)
        self._withdrawals = self.readers.withdrawals
        self._gauge = self.readers.gauge

    def __repr__(self) -> str:
        return f"<Caller {self.token}: {self.readers!r}>"

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: the log is missing, or the broker does not answer.
        """
        await self.readers.start()

    async def stop(self) -> None:
        """Listen no more. Calls that are still open must have been given up before."""
        await self.readers.stop()

    # Rpc rows.

    async def ask(self, route: Route[Any, Any], subject: str, body: bytes, envelope: Envelope) -> bytes:
        """Ask once.

        Returns:
            The encoded reply.

        Raises:
            Fault: the worker's own, or NoWorker, NotFound (nobody serves this token), Expired, BusDown, TooLarge.
        """
        try:
            return await ask(self.bus, route, subject, body, envelope)
        except NoWorker:
            if route.token and self.presence.has(route.worker):
                raise NotFound(route.worker, "工具", subject.rpartition(".")[2]) from None
            raise

    # Job rows.

    async def submit(
        self,
        route: Route[Any, Any],
        subject: str,
        body: bytes,
        envelope: Envelope,
        *,
        chosen: bool,
        begun: bool = False,
    ) -> Reading:
        """Bring a call into being, or join the one that has this id already.

        Args:
            envelope: without an inbox, which is added here.
            chosen: the caller chose the request id, so the call may be known.
            begun: the caller has a part of its answer already, so it must be known.

        Returns:
            Its reader; to be closed by `close`.

        Raises:
            NoWorker: nobody would take it; nothing is stored.
            SameIdOtherBody: the id was used for another request.
            Lost: it is not known, and should be.
            Overloaded, TooLarge, BusDown: it could not be stored; a refusal by the queue itself is raised by the reader.
        """
        request = Request(route, subject, body, envelope, begun)
        if not chosen:
            self._check_room(route)
            return self._begin(request)
        for n in range(ATTACH_TRIES):
            # Who has a part of the answer must not be told by a copy that is behind that nothing is known of it.
            entry = await self._read(envelope.call, newest=begun or n > 0)
            queue = self._gauge.generations.get(request.queue, "")
            verdict = record.attach(entry, request.digest, self._settings.retries, queue)
            if verdict is Attach.REOPEN and not self._all_know_reopening(route):
                verdict = Attach.ANSWER
            match verdict:
                case Attach.REFUSE:
                    raise SameIdOtherBody(envelope.request_id)
                case Attach.FOLLOW:
                    return await self._join(request, entry)
                case Attach.ANSWER:
                    assert entry is not None
                    return await self._answer(request, entry)
                case Attach.REOPEN:
                    assert entry is not None
                    self._check_begun(request, entry)
                    self._check_room(route)
                    entry = await self._reopen(entry, envelope.call)
                    if entry is None:
                        continue  # another request did something about it
                case _:
                    self._check_begun(request, entry)
                    self._check_room(route)
            return await self._store_or_join(request, entry)
        raise BusDown("others ask for the same call too often")

    async def follow(self, route: Route[Any, Any], envelope: Envelope, *, begun: bool) -> Reading:
        """Read a call that there is, whatever was asked for in it. It is neither stored nor tried again.

        Args:
            envelope: its digest does not count.
            begun: the caller has a part of its answer already.

        Returns:
            Its reader; to be closed by `close`.

        Raises:
            NotFound: nobody waits for such a call and no worker has had it, or its record has expired.
            Lost: what the caller has is of a log that is lost.
            BusDown: that cannot be read.
        """
        while (entry := await self._read(envelope.call, newest=True)) is None:
            if not await self.is_held(envelope.call):
                raise NotFound("call", "请求", envelope.request_id)
            await asyncio.sleep(FOLLOW_EVERY)  # it waits for its first worker
        request = Request(route, "", b"", envelope._replace(digest=entry.record.digest.hex()), begun)
        return await (self._answer(request, entry) if entry.done else self._join(request, entry))

    def _all_know_reopening(self, route: Route[Any, Any]) -> bool:
        """In the middle of a roll-out there may be workers of version 1, which would throw such a job away in the end."""
        kind = [w for w in self.presence.workers() if w.kind == route.worker]
        return all(int(w.metadata.get("protocol", "1")) >= wire.REOPENS_SINCE for w in kind)

    @staticmethod
    def _check_begun(request: Request, entry: Entry | None) -> None:
        """A caller who has a part of the answer must be given the rest of that one.

        Raises:
            Lost: nothing is known of it any more, or it was begun anew.
        """
        if request.begun and entry is None:
            raise Lost("nothing is known of this call any more")
        if request.begun and entry is not None and entry.record.restarted:
            raise Lost("its log was lost, and with it what you have of it")

    def _check_room(self, route: Route[Any, Any]) -> None:
        """Refuse what could not be run to its end."""
        if not self.presence.has(route.worker):
            raise NoWorker(route.worker)
        if not self._gauge.log_has_room:
            raise Overloaded("The log of running calls is full", "进行中的请求过多", self._settings.log_bytes)
        queue = topology.QUEUES[route.worker].stream
        usage = self._gauge.usage.get(queue)
        if route.room < 1 and usage is not None and usage.bytes > route.room * usage.max_bytes > 0:
            raise Overloaded(
                "The queue is full for calls of this kind", "此类请求的队列已满", int(route.room * usage.max_bytes)
            )
        self._check_records()

    def _check_records(self) -> None:
        if not self._gauge.records_have_room:
            raise Overloaded(
                "The store of call records is full", "请求记录已满", self._settings.record_bytes, retry_seconds=60
            )

    async def _reopen(self, entry: Entry, call: str) -> Entry | None:
        value = record.reopened(entry)
        try:
            revision = await self.records.write(call, value, entry.revision)
        except Conflict:
            return None
        except TransportError as e:
            raise fault_of(e) from None
        log.info("call_reopened", call=call, reopenings=value.reopenings)
        return Entry(revision, value)

    async def _store_or_join(self, request: Request, entry: Entry | None) -> Reading:
        """Nobody runs the call, as far as its record goes; but another request of this bridge may just have stored it."""
        reopened = entry.record.reopened if entry is not None else 0
        for other in self.readers.of(request.envelope.call):
            # An older one, of the attempt that failed, may still be shown what that had said: it stores nothing.
            if other.stores and not other.over and other.position.reopened == reopened:
                if other.digest != request.digest:
                    raise SameIdOtherBody(request.envelope.request_id)
                reading = await self._join(request, entry)
                reading.queue = request.queue
                return reading
        # What was said before, if anything, lies in the log of another request.
        return self._begin(request, reopened, await self._join(request, entry) if entry is not None else None)

    def _begin(self, request: Request, reopens: int = 0, reading: Reading | None = None) -> Reading:
        """Store a job.

        Args:
            reopens: the revision of the decision that it is to replace; 0: it is the call's first.
            reading: who reads the call already.
        """
        inbox = subjects.log(request.route.worker, self.token, request.envelope.call)
        if reading is None:
            reading = self.readers.register(self._reading(request, None, inbox))
        reading.queue, reading.stores = request.queue, True
        stored = replace(request, envelope=request.envelope._replace(inbox=inbox, reopens=reopens))
        known: Reading = reading
        observed = Observed.of(request.route, request.subject, stored.envelope)
        try:
            Storing(
                self.bus,
                self._settings,
                stored,
                lambda: known.heard_anything or known.over,
                lambda fault: self._refused(known.call, fault),
                lambda: self._observer.accepted(observed),
            ).put()
        except TransportError as e:
            self.readers.forget(reading)
            raise fault_of(e) from None
        return reading

    def _refused(self, call: str, fault: Fault) -> None:
        """Tell those who wait for a job that is not there: who stored it, and who joined."""
        for reading in self.readers.of(call):
            if not reading.heard_anything:
                reading.fail(fault)

    async def _read(self, call: str, *, newest: bool = False) -> Entry | None:
        try:
            return await self.records.read(call, newest=newest)
        except TransportError as e:
            raise fault_of(e) from None

    async def _join(self, request: Request, entry: Entry | None) -> Reading:
        """Read a call that another request began, from its start, by a consumer of its own."""
        self._check_begun(request, entry)
        reading = self._reading(request, entry)
        if entry is not None and entry.record.state == record.RUN:
            reading.expect(entry.record.log)
        self.readers.register(reading)
        self._withdrawals.join(reading.call)  # before its caller is shown anything, and may leave
        try:
            await self.readers.read_apart(reading)
        except BaseException:
            self.readers.forget(reading)
            raise
        return reading

    async def _answer(self, request: Request, entry: Entry) -> Reading:
        """Answer a decided call: a unary row from the record, a stream from its log, as far as that goes."""
        held, end = entry.record, entry.record.end
        reading = self._reading(request, entry)
        # Who decided a failure without having run the call did not know how much had been said.
        silent = not end.count and not (end.status and held.claims)
        if end.HasField("answer") or silent or isinstance(request.route, Job):
            reading.finish(end)
            return reading
        self._check_begun(request, entry)
        log_now = await self._log_now()
        if held.log and log_now != held.log:
            if not end.status:
                raise Lost("its log is lost")
            reading.finish(end)
            return reading
        reading.replay(end, log_now)
        return self.readers.register(reading)

    async def _log_now(self) -> str:
        try:
            return await self.bus.generation(topology.LOG)
        except TransportError as e:
            raise fault_of(e) from None

    async def check_rest(self, reading: Reading) -> None:
        """See that what a caller is about to be shown goes on with what it has: that the answer was not begun anew meanwhile.

        Raises:
            Lost: it was, because its log was lost.
            BusDown: the record cannot be read.
        """
        # From the leader: a copy that is behind may not know yet that it was begun anew.
        entry = await self._read(reading.call, newest=True)
        if entry is not None and entry.record.restarted:
            raise Lost("its log was lost, and with it what you have of it")

    def _reading(self, request: Request, entry: Entry | None, inbox: str = "") -> Reading:
        envelope = request.envelope
        return Reading(
            self.bus,
            envelope.call,
            inbox or subjects.logs_of_call(envelope.call),
            self._settings,
            request.digest,
            envelope.request_id,
            entry.record.reopened if entry is not None else 0,
            silent=isinstance(request.route, Job),
        )

    def close(self, reading: Reading, fault: Fault | None = None, *, linger_seconds: float = 0.0) -> None:
        """Read a call no more.

        Args:
            fault: Cancelled or Expired: the call is to be decided so, if it has not ended.
            linger_seconds: but only if nobody reads it again within so long.
        """
        self.readers.forget(reading)
        if fault is None or reading.end is not None or self.readers.of(reading.call):
            return
        call, digest, shown = reading.call, reading.digest, reading.position.next
        shared = reading.apart or self._withdrawals.is_shared(call)
        if (linger_seconds > 0 or shared) and self._withdrawals.lingering < self._settings.lingering_calls:
            self._withdrawals.linger(call, digest, shown, fault, linger_seconds)  # which asks the other bridges
        else:
            self.readers.spawn(self._withdrawals.decide(call, digest, shown, fault))

    async def cancel(self, call: str, fault: Fault) -> bool:
        """Cancel a call in words, whether it is known yet or not: one that comes later is cancelled already.

        Returns:
            Whether that is decided; False: the broker did not answer.
        """
        if await self._read(call) is None:
            self._check_records()
        return await self._withdrawals.decide(call, b"", 0, fault)

    async def is_held(self, call: str) -> bool:
        """Whether any bridge reads a call: if it has no record, it waits for a worker.

        Raises:
            BusDown: the broker does not answer.
        """
        try:
            return await self._withdrawals.is_held(call)
        except TransportError as e:
            raise fault_of(e) from None

    def credit(self, reading: Reading) -> None:
        """Let a worker go on."""
        self.readers.credit(reading)
