"""How a worker that was given a job comes to hold its call, or learns that it must not; and what it may do with its claim."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import record
from .deadline import Deadline
from .errors import Expired
from .record import Claim, Entry, JobMessage
from .records import Records
from .transport_errors import Conflict

log = structlog.get_logger(__name__)

TRIES = 5
"""How often a claim is tried that somebody else was faster with. Each time the record has gone on by a step."""


class Stale(Exception):
    """Another worker has this call now. Say nothing more, acknowledge nothing."""


class NotYet(Exception):
    """A suspect is to rest before it runs again.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"in {seconds:.1f} s")
        self.seconds = seconds


class Lost(NamedTuple):
    """The claim before, whose worker is lost."""

    epoch: int
    worker: str
    at_ms: int


class Claimed:
    """A claim, as long as it holds.

    Args:
        epoch: the revision that it was given. It stays, whatever is written into the record: only a later claim has a higher one.
        value: the record as it was written.
        goes_on: somebody held the call before: the log must be fenced, and may hold a part of the answer.
        buried: too many workers were lost over it: it is to be put aside, not run.
        lost: whose claim it took the place of; None: nobody's, or of one that gave it back.
    """

    def __init__(
        self,
        records: Records,
        call: str,
        epoch: int,
        value: bus_pb2.Record,
        *,
        goes_on: bool = False,
        buried: bool = False,
        lost: Lost | None = None,
    ) -> None:
        self._records = records
        self._call = call
        self.epoch = epoch
        self.record = value
        self.goes_on = goes_on
        self.buried = buried
        self.lost = lost
        self._revision = epoch
        self._writing = asyncio.Lock()

    def holds(self, entry: Entry | None) -> bool:
        """Whether a record that was read is this claim's: otherwise another worker has the call, or it is decided."""
        return entry is not None and entry.record.state == record.RUN and record.epoch_of(entry) == self.epoch

    async def note(self, **changes: object) -> None:
        """Write into the record what has become of the claim.

        Args:
            changes: fields of the record.

        Raises:
            Stale: the claim does not hold any more.
            TransportError: the bucket does not answer.
        """
        async with self._writing:
            if self.record.state != record.RUN:
                return  # decided meanwhile
            value = record.noted(self.record, self.epoch, **changes)
            try:
                await self._write(value)
            except Conflict:
                raise Stale from None

    async def decide(self, end: bus_pb2.End, follow_up: bytes = b"") -> Entry:
        """Commit.

        Raises:
            Conflict: the claim does not hold any more.
            PayloadTooLarge: the record is larger than the broker carries.
            TransportError: the bucket does not answer.
        """
        async with self._writing:
            value = record.decided(self.record, self.record.digest, end, follow_up, epoch=self.epoch)
            await self._write(value)
            return Entry(self._revision, value)

    async def _write(self, value: bus_pb2.Record) -> None:
        self._revision = await self._records.write(self._call, value, self._revision)
        self.record = value


class Claimant:
    """A worker with a delivery in its hand.

    Args:
        call: the call id.
        deadline: of the call.
        message: the delivery.
        worker: the worker's token.
        settings: what a suspect is granted, and how long the log keeps what is said.
        alone: waits for a while until nothing else runs here, and says whether that is so.
    """

    def __init__(
        self,
        records: Records,
        call: str,
        deadline: Deadline,
        message: JobMessage,
        worker: str,
        settings: BusSettings,
        alone: Callable[[], Awaitable[bool]],
    ) -> None:
        self._records = records
        self._call = call
        self._deadline = deadline
        self._message = message
        self._worker = worker
        self._settings = settings
        self._alone = alone

    async def claim(self) -> Claimed | Entry | None:
        """Claim the call.

        Returns:
            The claim; the decided record if there is nothing to run; None: the message is to be dropped.

        Raises:
            Stale: another worker holds it.
            NotYet: it is to be delivered again later.
            TransportError: the bucket does not answer.
        """
        if self._message.delivery == 1 and not self._message.reopens and not self._deadline.passed:
            # Most calls are new: try what will hold for them.
            value = record.running(self._message, self._worker)
            try:
                return Claimed(self._records, self._call, await self._records.write(self._call, value, 0), value)
            except Conflict:
                pass
        for n in range(TRIES):
            try:
                return await self._look_and_claim()
            except Conflict:
                await asyncio.sleep(0.02 * n)  # somebody was faster: what is there now?
        raise Stale

    async def _look_and_claim(self) -> Claimed | Entry | None:
        # From the leader: a copy that is behind would show a call that was reopened as it was before.
        entry = await self._records.read(self._call, newest=True)
        held = entry.record if entry is not None else None
        alone = False
        verdict = record.claim(entry, self._message, self._settings.attempts)
        match verdict:
            case Claim.FINISH:
                return entry
            case Claim.DROP:
                log.info("job_dropped", call=self._call, sequence=self._message.sequence)
                return None
            case Claim.STALE:
                raise Stale
            case _ if self._deadline.passed:
                return await self._expire(entry)
            case Claim.TAKE_OVER if held is not None and record.suspect(held):
                rest = record.rest_seconds(held, self._settings.suspect_seconds)
                if rest > 0:
                    raise NotYet(rest)
                alone = await self._alone()
                if self._deadline.remaining <= 0:
                    return await self._expire(entry)
        value = record.running(self._message, self._worker, held, self._settings.log_age_seconds, alone=alone)
        epoch = await self._records.write(self._call, value, _revision(entry))
        buried = verdict is Claim.BURY
        return Claimed(
            self._records, self._call, epoch, value, goes_on=entry is not None, buried=buried, lost=_lost(entry)
        )

    async def _expire(self, entry: Entry | None) -> Entry:
        """Nobody waits any more: decide the call without running it."""
        before = entry.record if entry is not None else None
        value = record.decided(before, self._message.digest, bus_pb2.End(status=Expired().status))
        return Entry(await self._records.write(self._call, value, _revision(entry)), value)


def _lost(entry: Entry | None) -> Lost | None:
    if entry is None or entry.record.state != record.RUN or entry.record.given_back:
        return None
    held = entry.record
    return Lost(record.epoch_of(entry), held.claims[-1].worker if held.claims else "", held.at_ms)


def _revision(entry: Entry | None) -> int:
    return entry.revision if entry is not None else 0
