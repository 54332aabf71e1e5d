"""The asking side: what a bridge does with a call. Rpc rows are asked, job rows are stored and read from the log."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import Route
from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import record, subjects, topology
from .deadline import Deadline
from .discovery import Presence
from .errors import (
    BusDown,
    Conflict,
    Disconnected,
    Expired,
    Fault,
    Lost,
    NoResponders,
    NotFound,
    NoWorker,
    Overloaded,
    PayloadTooLarge,
    ReplyTimeout,
    SameIdOtherBody,
    StoreRefused,
    TooLarge,
    TransportError,
)
from .gauge import Gauge
from .headers import Envelope
from .reading import Reading
from .record import Attach, Entry
from .records import Records
from .silence import Silence
from .transport import Bus, Headers, Subscription, parse_ack

log = structlog.get_logger(__name__)

TICK = 0.5
"""Seconds between looks at the open calls."""

STORE_ATTEMPTS = 3
"""How often a job is put into its queue before the queue is taken for dead."""

CANCEL_KEPT = 60.0
"""Seconds for which a cancelled call's worker is told again whenever it is still heard."""


class Caller:
    """One bridge process on the bus."""

    def __init__(self, bus: Bus, settings: BusSettings, presence: Presence) -> None:
        self._bus = bus
        self._settings = settings
        self.presence = presence
        self.token = secrets.token_hex(6)
        self._records = Records(bus, settings)
        self._open: dict[str, set[Reading]] = {}
        self._began: dict[Reading, float] = {}
        self._withdrawn: dict[str, float] = {}
        self._judged: set[Reading] = set()
        self._beaten = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower: Subscription | None = None
        self._clock: asyncio.Task[None] | None = None
        self._gauge = Gauge(bus, lambda: min(self._began.values(), default=time.time()))
        self._silence = Silence(bus, settings, self._records, self._gauge, self._read_apart)

    def __repr__(self) -> str:
        return f"<Caller {self.token}: {len(self._began)} calls open, {len(self._tasks)} tasks>"

    @property
    def open_calls(self) -> int:
        """Job calls that are read now."""
        return len(self._began)

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: the log is missing, or the broker does not answer.
        """
        subject = subjects.logs_of_bridge(self.token)
        self._follower = await self._bus.follow(topology.LOG, subject, self._on_frame, from_start=False)
        self._clock = asyncio.get_running_loop().create_task(self._keep_time())
        self._gauge.start()

    async def stop(self) -> None:
        """Listen no more. Calls that are still open must have been given up before."""
        self._gauge.stop()
        if self._clock is not None:
            self._clock.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        if self._follower is not None:
            await self._follower.stop()

    # Rpc rows.

    async def ask(self, route: Route[Any, Any], subject: str, body: bytes, envelope: Envelope) -> bytes:
        """Ask once.

        Returns:
            The encoded reply.

        Raises:
            Fault: the worker's own, or NoWorker, NotFound (nobody serves this token), Expired, BusDown, TooLarge.
        """
        try:
            reply, headers = await self._bus.ask(
                subject,
                body,
                timeout=max(0.001, envelope.deadline.remaining),
                headers=envelope.encode(stored=False),
            )
        except NoResponders:
            if route.token and self.presence.has(route.worker):
                raise NotFound(route.worker, "工具", subject.rpartition(".")[2]) from None
            raise NoWorker(route.worker) from None
        except ReplyTimeout:
            self._tell_cancelled(envelope.call)
            raise Expired from None
        except (Disconnected, PayloadTooLarge) as e:
            raise _fault_of(e) from None
        except asyncio.CancelledError:
            self._tell_cancelled(envelope.call)
            raise
        if headers and wire.ERROR_CODE in headers:
            raise Fault.from_status(reply)
        return reply

    def _tell_cancelled(self, call: str) -> None:
        try:
            self._bus.publish(subjects.cancel(call), b"")
        except TransportError as e:
            log.warning("cancel_not_sent", call=call, error=str(e))

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
        digest = bytes.fromhex(envelope.digest)
        if chosen:
            entry = await self._read(envelope.call)
            match record.attach(entry, digest, 0):
                case Attach.REFUSE:
                    raise SameIdOtherBody(envelope.request_id)
                case Attach.FOLLOW:
                    return await self._join(
                        Reading(self._bus, envelope.call, "", self._settings, digest, envelope.request_id)
                    )
                case Attach.ANSWER:
                    assert entry is not None
                    return self._answer(entry, envelope.call, digest)
                case _:
                    pass
            # Nobody has claimed it, but another request of this bridge may just have stored it.
            for other in self._open.get(envelope.call, ()):
                if other.digest != digest:
                    raise SameIdOtherBody(envelope.request_id)
                return await self._join(
                    Reading(self._bus, envelope.call, "", self._settings, digest, envelope.request_id)
                )
        if begun:
            raise Lost("nothing is known of this call any more")
        if not self.presence.has(route.worker):
            raise NoWorker(route.worker)
        if not self._gauge.log_has_room:
            raise Overloaded("The log of running calls is full", "进行中的请求过多", self._settings.log_bytes)
        if not self._gauge.records_have_room:
            raise Overloaded(
                "The store of call records is full", "请求记录已满", self._settings.record_bytes, retry_seconds=60
            )
        inbox = subjects.log(route.worker, self.token, envelope.call)
        reading = self._register(Reading(self._bus, envelope.call, inbox, self._settings, digest, envelope.request_id))
        reading.queue = topology.QUEUES[route.worker].stream
        headers = envelope._replace(inbox=inbox).encode(stored=True)
        try:
            self._store(reading, subject, body, headers, envelope.deadline)
        except TransportError as e:
            self._forget(reading)
            raise _fault_of(e) from None
        return reading

    def _store(
        self, reading: Reading, subject: str, body: bytes, headers: bytes, deadline: Deadline, attempt: int = 1
    ) -> None:
        """Put the job into its queue. The reader waits for the call's first frame anyway, so nobody waits for the
        acknowledgement: only a refusal, or none in time, is news.
        """

        def answered(data: bytes, reply_headers: Headers | None) -> None:
            timer.cancel()
            try:
                parse_ack(subject, data)
            except TransportError as e:
                reading.fail(_fault_of(e))

        def late() -> None:
            self._bus.forget(token)
            if reading.heard_anything or reading.end is not None:
                return  # its worker speaks: only the acknowledgement was lost
            if deadline.passed or attempt == STORE_ATTEMPTS:
                reading.fail(BusDown("the job queue does not answer"))
                return
            # It may be stored already. Then this is a second message of the same call, and the record lets one run.
            log.warning("job_not_acknowledged", call=reading.call, attempt=attempt)
            try:
                self._store(reading, subject, body, headers, deadline, attempt + 1)
            except TransportError as e:
                reading.fail(_fault_of(e))

        token = self._bus.request(subject, body, answered, headers=headers)
        timer = asyncio.get_running_loop().call_later(self._settings.store_seconds, late)

    async def _read(self, call: str) -> Entry | None:
        try:
            return await self._records.read(call)
        except TransportError as e:
            raise _fault_of(e) from None

    async def _join(self, reading: Reading) -> Reading:
        """Read a call that another request began, from its start, by a consumer of its own."""
        self._register(reading)
        try:
            await self._read_apart(reading)
        except BaseException:
            self._forget(reading)
            raise
        return reading

    async def _read_apart(self, reading: Reading) -> None:
        reading.apart = True
        reading.inbox = subjects.logs_of_call(reading.call)
        try:
            reading.own_follower = await self._bus.follow(
                topology.LOG, reading.inbox, lambda _, sequence, data: reading.on_frame(sequence, data), from_start=True
            )
        except TransportError as e:
            raise _fault_of(e) from None

    def _answer(self, entry: Entry, call: str, digest: bytes) -> Reading:
        """Answer a decided call: a unary row from the record, a stream from its log, as far as that goes."""
        end = entry.record.end
        reading = Reading(self._bus, call, subjects.logs_of_call(call), self._settings, digest)
        if end.HasField("answer") or not end.count:
            reading.finish(end)
            return reading
        reading.replay(end)
        return self._register(reading)

    def _register(self, reading: Reading) -> Reading:
        self._open.setdefault(reading.call, set()).add(reading)
        self._began[reading] = reading.began
        return reading

    def _forget(self, reading: Reading) -> None:
        readings = self._open.get(reading.call)
        if readings is not None:
            readings.discard(reading)
            if not readings:
                del self._open[reading.call]
        self._began.pop(reading, None)

    def close(self, reading: Reading, fault: Fault | None = None) -> None:
        """Read a call no more.

        Args:
            fault: Cancelled or Expired: the call is to be decided so, if it has not ended.
        """
        self._forget(reading)
        if reading.own_follower is not None:
            self._spawn(reading.own_follower.stop())
        if fault is not None and reading.end is None and reading.call not in self._open:
            self._spawn(self._withdraw(reading, fault))

    async def _withdraw(self, reading: Reading, fault: Fault) -> None:
        """Decide a call against its worker: the record first, then the word."""
        call = reading.call
        for _ in range(5):
            try:
                entry = await self._records.read(call)
                if entry is not None and entry.done:
                    return
                end = bus_pb2.End(status=fault.status, count=reading.position.next)
                value = record.decided(entry.record if entry else None, reading.digest, end)
                await self._records.write(call, value, entry.revision if entry else 0)
            except Conflict:
                continue  # it was claimed, taken over or finished in between
            except TransportError as e:
                log.warning("call_not_withdrawn", call=call, error=str(e))
                return
            self._withdrawn[call] = time.monotonic()
            self._tell_cancelled(call)
            return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Frames.

    def _on_frame(self, subject: str, sequence: int, data: bytes) -> None:
        call = subject.rpartition(".")[2]
        readings = self._open.get(call)
        if readings is None:
            if call in self._withdrawn:
                self._tell_cancelled(call)  # its worker has not heard, or not believed
            return
        for reading in readings:
            if not reading.apart:
                reading.on_frame(sequence, data)

    def credit(self, reading: Reading) -> None:
        """Let the worker go on, before it runs out of what it was granted."""
        if reading.worker and reading.granted - reading.taken < max(1, self._settings.window_frames // 8):
            reading.granted = reading.taken + self._settings.window_frames
            self._say_credit(reading.worker, [reading])

    def _say_credit(self, worker: str, readings: list[Reading]) -> None:
        grants = [bus_pb2.Credit.Grant(call=r.call, up_to=r.granted) for r in readings]
        try:
            self._bus.publish(subjects.credit(worker), bus_pb2.Credit(grants=grants).SerializeToString())
        except TransportError:
            log.debug("credit_not_sent", worker=worker)  # the next beat says it again

    # Time.

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                self._tick(time.monotonic())
            except Exception:
                log.exception("tick_failed")

    def _tick(self, now: float) -> None:
        for reading in self._all():
            if reading.end is None and now - reading.heard > self._settings.lease_seconds:
                self._judge(reading)
        if now - self._beaten >= self._settings.beat_seconds:
            self._beaten = now
            self._repeat_credit()
            self._withdrawn = {c: at for c, at in self._withdrawn.items() if now - at < CANCEL_KEPT}

    def _judge(self, reading: Reading) -> None:
        if reading not in self._judged:
            self._judged.add(reading)
            task = self._spawn(self._silence.judge(reading))
            task.add_done_callback(lambda _: self._judged.discard(reading))

    def _all(self) -> Iterator[Reading]:
        yield from list(self._began)

    def _repeat_credit(self) -> None:
        lots: dict[str, list[Reading]] = {}
        for reading in self._all():
            if reading.worker and reading.granted > self._settings.window_frames:
                lots.setdefault(reading.worker, []).append(reading)
        for worker, readings in lots.items():
            self._say_credit(worker, readings)


def _fault_of(error: TransportError) -> Fault:
    """Translate at the border: what the broker did not do, as the caller may see it."""
    match error:
        case PayloadTooLarge():
            return TooLarge("The request", "请求", error.size, error.limit)
        case StoreRefused(code=code) if code in (10077, 10047, 10023):
            return Overloaded("The job queue is full", "任务队列已满")
        case _:
            return BusDown.of(error)
