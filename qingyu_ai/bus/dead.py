"""Dead letters: jobs that were put aside, kept with their story until an operator looks at them and has them tried again."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import record, subjects, topology
from .deadline import Deadline
from .errors import Fault
from .headers import Envelope
from .patience import patiently
from .records import Records
from .transport import Bus, Delivery
from .transport_errors import Conflict, TransportError

log = structlog.get_logger(__name__)


class NotDead(Exception):
    """A dead letter cannot be tried again: its call runs, or has come to another end meanwhile."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and where it lies."""

    subject: str
    sequence: int
    content: bus_pb2.DeadLetter

    @property
    def call(self) -> str:
        """The call id."""
        return self.subject.split(".")[3]


class DeadLetters:
    """The stream of jobs that were put aside."""

    def __init__(self, bus: Bus, records: Records, settings: BusSettings) -> None:
        self._bus = bus
        self._records = records
        self._settings = settings
        self.stored = 0
        """Letters put here by this process."""
        self.lost = 0
        """Letters that could not be stored."""

    async def put(self, delivery: Delivery, envelope: Envelope, held: bus_pb2.Record, fault: Fault) -> None:
        """Put a job aside. Whoever does it again, because the one before died over it, changes nothing.

        A letter that cannot be stored is logged with all that is needed to find its call; the caller is told in any case.
        """
        letter = bus_pb2.DeadLetter(
            subject=delivery.subject,
            body=delivery.data,
            headers=dict(delivery.headers or {}),
            status=fault.status,
            reason=fault.message,
            deaths=held.deaths,
            claims=held.claims,
            at_ms=record.now_ms(),
        )
        kind = delivery.subject.split(".")[2]
        subject = subjects.dead(kind, envelope.call, held.reopened)
        try:
            with contextlib.suppress(Conflict):
                await patiently(
                    lambda: self._bus.store(
                        subject, letter.SerializeToString(), expect=0, timeout=self._settings.store_seconds
                    ),
                    self._settings.patience_seconds,
                )
        except TransportError as e:
            self.lost += 1
            log.error("dead_letter_lost", call=envelope.call, request_id=envelope.request_id, error=str(e))
            return
        self.stored += 1
        log.error(
            "dead_letter",
            call=envelope.call,
            request_id=envelope.request_id,
            subject=delivery.subject,
            reason=fault.message,
        )

    async def read(self, kind: str = "*") -> list[Letter]:
        """All letters, the oldest first.

        Args:
            kind: of worker; `*`: any.

        Raises:
            TransportError: the broker does not answer.
        """
        letters: list[Letter] = []
        sequence = 1
        while True:
            stored = await self._bus.next(
                topology.DEAD, f"{subjects.DEAD}.{kind}.>", sequence, timeout=self._settings.store_seconds
            )
            if stored is None:
                return letters
            letters.append(Letter(stored.subject, stored.sequence, bus_pb2.DeadLetter.FromString(stored.data)))
            sequence = stored.sequence + 1

    async def replay(self, letter: Letter, *, seconds: float | None = None) -> None:
        """Have a job tried again, as if none had been lost over it: it goes on with what its log still holds.

        Whoever asks for the same request id again then joins it. The letter is gone once the job is stored.

        Args:
            seconds: its new deadline; None: the default one.

        Raises:
            NotDead: its call runs, or has ended otherwise.
            TransportError: the broker did not do its part; try again.
        """
        envelope = Envelope.from_headers(letter.content.headers)
        reopens = await self._reopen(letter.call, bytes.fromhex(envelope.digest))
        again = envelope._replace(
            deadline=Deadline.after(self._settings.default_deadline_seconds if seconds is None else seconds),
            inbox=subjects.log(letter.subject.split(".")[2], secrets.token_hex(6), letter.call),
            reopens=reopens,
        )
        await self._bus.store(
            letter.content.subject,
            letter.content.body,
            headers=again.encode(stored=True),
            timeout=self._settings.store_seconds,
        )
        await self.forget(letter)

    async def _reopen(self, call: str, digest: bytes) -> int:
        entry = await self._records.read(call)
        if entry is None:
            return 0  # its record has expired: it runs as a new call
        if entry.record.digest != digest or entry.record.state == record.RUN:
            raise NotDead(call)
        if entry.record.state == record.REOPENED:
            return entry.record.reopened
        if not entry.record.end.status:
            raise NotDead(call)
        value = record.reopened(entry)
        value.deaths = 0
        await self._records.write(call, value, entry.revision)
        return entry.revision

    async def forget(self, letter: Letter) -> None:
        """Throw a letter away.

        Raises:
            TransportError: the broker did not do it.
        """
        await self._bus.drop(topology.DEAD, letter.subject, timeout=self._settings.store_seconds)
        log.info("dead_letter_forgotten", call=letter.call, request_id=letter.content.headers.get(wire.REQUEST, ""))
