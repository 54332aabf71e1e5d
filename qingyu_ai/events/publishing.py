"""Tells other services what happens: events on their stream. The bus is told to tell this (`bus.observing`).

Two kinds. What follows from a record is kept: published under an id that is a function of the decision, and waited for before the
job is acknowledged. So is what a database has noted of documents. All the rest is sent without waiting, no more of it than is
allowed, and what is beyond that is counted.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import structlog
from google.protobuf.message import Message

from qingyu_ai.bus import subjects
from qingyu_ai.bus.fault import Fault
from qingyu_ai.bus.observing import Decided, Observed, Process
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.transport_errors import PayloadTooLarge, TransportError
from qingyu_ai.contract import events_pb2 as events
from qingyu_ai.settings import Bus as BusSettings

from . import cloudevents, documents, kinds
from .deriving import Told, about, of_asked, of_decision
from .documents import Note
from .keeping import Keeper
from .kinds import Kind

log = structlog.get_logger(__name__)

UNSENT = 1024 * 1024
"""Bytes that wait for the broker above which nothing is added that may be shed: calls go first."""


def source(service: str) -> str:
    """The CloudEvents source. Not the process: source and id together name an event, whichever process tells it."""
    return f"/qingyu-ai/{service}"


class Publisher:
    """See `bus.observing.Observer`."""

    def __init__(self, bus: Bus, settings: BusSettings) -> None:
        self._bus = bus
        self._settings = settings
        self._keeper = Keeper(bus, settings)
        self._allowance = float(settings.events_per_second)
        self._refilled = time.monotonic()
        self.sent: Counter[str] = Counter()
        """By event."""
        self.shed: Counter[str] = Counter()
        """By event: not sent, because there were too many or the broker took nothing."""
        self.waiting = 0
        """Events that must not be shed and that the stream has not acknowledged yet."""

    def __repr__(self) -> str:
        return f"<Publisher {self.sent.total()} sent, {self.shed.total()} shed, {self.waiting} wait>"

    # What may be shed.

    def accepted(self, call: Observed) -> None:
        """See `Observer.accepted`."""
        at = _now_ms()
        envelope = call.envelope
        message = events.CallAccepted(at_unix_ms=at, call=about(call), deadline_unix_ms=envelope.deadline.to_unix_ms())
        self._send_of(call, kinds.ACCEPTED, f"{envelope.call}.accepted.{envelope.reopens}", message, at)

    def started(self, call: Observed, worker: str, attempt: int) -> None:
        """See `Observer.started`."""
        at = _now_ms()
        message = events.CallStarted(at_unix_ms=at, call=about(call), worker=worker, attempt=attempt)
        self._send_of(call, kinds.STARTED, f"{call.envelope.call}.started.{call.epoch}", message, at)

    def first_token(self, call: Observed, seconds: float) -> None:
        """See `Observer.first_token`."""
        at = _now_ms()
        message = events.FirstToken(at_unix_ms=at, call=about(call), waited_ms=round(seconds * 1000))
        self._send_of(call, kinds.FIRST_TOKEN, f"{call.envelope.call}.first.{call.epoch}", message, at)

    def tool_called(self, call: Observed, number: int, tool: str, seconds: float, code: int) -> None:
        """See `Observer.tool_called`."""
        at = _now_ms()
        message = events.ToolCalled(
            at_unix_ms=at, call=about(call), tool=tool, duration_ms=round(seconds * 1000), code=code
        )
        self._send_of(call, kinds.TOOL_CALLED, f"{call.envelope.call}.tool.{call.epoch}.{number}", message, at)

    def asked(self, call: Observed, seconds: float, fault: Fault | None) -> None:
        """See `Observer.asked`."""
        kind, id, message, at = of_asked(call, seconds, fault, _now_ms())
        self._send_of(call, kind, id, message, at)

    def worker_up(self, worker: Process, slots: int) -> None:
        """See `Observer.worker_up`."""
        self._send_about(kinds.WORKER_UP, worker, "up", events.WorkerUp(slots=slots))

    def worker_draining(self, worker: Process, running: int) -> None:
        """See `Observer.worker_draining`."""
        self._send_about(kinds.WORKER_DRAINING, worker, "draining", events.WorkerDraining(running=running))

    def worker_down(self, worker: Process, *, lost: bool) -> None:
        """See `Observer.worker_down`. Every bridge sees that a worker is lost; the stream stores the word of the first."""
        self._send_about(kinds.WORKER_DOWN, worker, "lost" if lost else "down", events.WorkerDown(lost=lost))

    def _send_of(self, call: Observed, kind: Kind, id: str, message: Message, at_ms: int) -> None:
        envelope = call.envelope
        subject = subjects.event(call.kind, kind.name, subjects.project_token(envelope.project))
        block = cloudevents.encode(
            id, source(call.kind), kind.type, at_ms, envelope.call, envelope.traceparent, unique=kind.once
        )
        self._send(kind, subject, message, block)

    def _send_about(self, kind: Kind, worker: Process, word: str, message: Any) -> None:
        message.at_unix_ms = _now_ms()
        message.worker.CopyFrom(events.Worker(id=worker.id, service=worker.kind, version=worker.version))
        id = f"{worker.id}.{word}"
        block = cloudevents.encode(
            id, source(worker.kind), kind.type, message.at_unix_ms, worker.id, "", unique=kind.once
        )
        self._send(kind, kind.subject(worker.kind), message, block)

    def _send(self, kind: Kind, subject: str, message: Message, block: bytes) -> None:
        if not self._may_send():
            self.shed[kind.name] += 1
            return
        try:
            self._bus.publish(subject, message.SerializeToString(), headers=block)
        except TransportError:
            self.shed[kind.name] += 1
        else:
            self.sent[kind.name] += 1

    def _may_send(self) -> bool:
        """Take one from the allowance: as many as a second grants may come at once."""
        now, rate = time.monotonic(), self._settings.events_per_second
        self._allowance = min(rate, self._allowance + (now - self._refilled) * rate)
        self._refilled = now
        if self._allowance < 1 or self._keeper.late or self._bus.unsent_bytes > UNSENT:
            return False
        self._allowance -= 1
        return True

    # What is kept.

    async def decided(self, call: Decided) -> None:
        """See `Observer.decided`."""
        for told in of_decision(call):
            self.waiting += 1
            try:
                envelope = call.call.envelope
                await self._keep(told, call.call.kind, envelope.call, envelope.project, envelope.traceparent)
            finally:
                self.waiting -= 1

    async def document(self, note: Note) -> None:
        """Tell that a document was stored or removed.

        Raises:
            TransportError: the stream did not take it: it is to be told again.
            KeyError, DecodeError: it is of another release.
        """
        told = documents.told(note)
        call = told.message.call
        self.waiting += 1
        try:
            await self._keep(told, call.service, call.id, call.project, call.traceparent)
        finally:
            self.waiting -= 1

    async def _keep(self, told: Told, service: str, call: str, project: str, traceparent: str) -> None:
        kind, id, message, at = told
        subject = subjects.event(service, kind.name, subjects.project_token(project))
        block = cloudevents.encode(id, source(service), kind.type, at, call, traceparent, unique=True)
        try:
            await self._keeper.keep(id, subject, message.SerializeToString(), block)
        except PayloadTooLarge as e:
            # It would be as large the next time, and the job must end.
            log.error("event_too_large", event_kind=kind.name, call=call, error=str(e))
            self.shed[kind.name] += 1
            return
        self.sent[kind.name] += 1


def _now_ms() -> int:
    return int(time.time() * 1000)
