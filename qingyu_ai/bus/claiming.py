"""How a worker that was given a job comes to hold its call, or learns that it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import record
from .deadline import Deadline
from .errors import Conflict, Expired
from .record import Claim, Entry, JobMessage
from .records import Records

log = structlog.get_logger(__name__)

TRIES = 5
"""How often a claim is tried that somebody else was faster with. Each time the record has gone on by a step."""


class Stale(Exception):
    """Another worker has this call now. Say nothing more, acknowledge nothing."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim."""

    epoch: int
    record: bus_pb2.Record
    goes_on: bool = False
    """Somebody held the call before: the log must be fenced, and may hold a part of the answer."""
    buried: bool = False
    """Too many workers were lost over it: it is to be put aside, not run."""
    revision: int = 0
    """Of the record, if something was written into it since the claim; 0: it is the epoch still."""

    @property
    def expect(self) -> int:
        """The revision that the record has as long as the claim holds."""
        return self.revision or self.epoch


class Claimant:
    """A worker with a delivery in its hand.

    Args:
        call: the call id.
        deadline: of the call.
        message: the delivery.
        worker: the worker's token.
        settings: how many claims may be lost before the job is put aside, and how long the log keeps what is said.
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
        self._attempts = settings.attempts
        self._log_age_seconds = settings.log_age_seconds
        self._alone = alone

    async def claim(self) -> Held | Entry | None:
        """Claim the call.

        Returns:
            The claim; the decided record if there is nothing to run; None: the message is to be dropped.

        Raises:
            Stale: another worker holds it.
            TransportError: the bucket does not answer.
        """
        if self._message.delivery == 1 and not self._message.reopens and not self._deadline.passed:
            # Most calls are new: try what will hold for them.
            value = record.running(self._message, self._worker)
            try:
                return Held(await self._records.write(self._call, value, 0), value)
            except Conflict:
                pass
        for n in range(TRIES):
            try:
                return await self._look_and_claim(newest=self._message.delivery == 1 or n > 0)
            except Conflict:
                await asyncio.sleep(0.02 * n)  # somebody was faster: what is there now?
        raise Stale

    async def _look_and_claim(self, *, newest: bool) -> Held | Entry | None:
        entry = await self._records.read(self._call, newest=newest)
        held = entry.record if entry is not None else None
        alone = False
        verdict = record.claim(entry, self._message, self._attempts)
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
                alone = await self._alone()
                if self._deadline.remaining <= 0:
                    return await self._expire(entry)
        value = record.running(self._message, self._worker, held, self._log_age_seconds, alone=alone)
        epoch = await self._records.write(self._call, value, _revision(entry))
        return Held(epoch, value, entry is not None, verdict is Claim.BURY)

    async def _expire(self, entry: Entry | None) -> Entry:
        """Nobody waits any more: decide the call without running it."""
        before = entry.record if entry is not None else None
        value = record.decided(before, self._message.digest, bus_pb2.End(status=Expired().status))
        return Entry(await self._records.write(self._call, value, _revision(entry)), value)


def _revision(entry: Entry | None) -> int:
    return entry.revision if entry is not None else 0
