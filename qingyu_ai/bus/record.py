"""The record of a call: its states and who may change them. Pure: it decides, `records` and `job` do.

Changed only by compare-and-set: absent → RUN → DONE, and RUN → RUN at a take-over. The epoch is the revision that the
claim was given. See the table in docs/bus-protocol.md, "The record".
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum, auto

from qingyu_ai.contract import bus_pb2

RUN = bus_pb2.Record.STATE_RUN
DONE = bus_pb2.Record.STATE_DONE


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and the revision it was read at."""

    revision: int
    record: bus_pb2.Record

    @property
    def done(self) -> bool:
        """Whether the call is decided."""
        return self.record.state == DONE


@dataclass(frozen=True, slots=True)
class JobMessage:
    """Which delivery of which job message a worker holds."""

    sequence: int
    delivery: int
    digest: bytes
    log: str = ""


class Claim(Enum):
    """What a worker that was given a job does about the record."""

    CREATE = auto()
    """First claim: create RUN. The revision it gets is the epoch."""
    TAKE_OVER = auto()
    """The same message again, delivered later: set RUN anew, then fence the log, then fold it."""
    DROP = auto()
    """Another message of a call that runs: acknowledge it; the first one goes on."""
    STALE = auto()
    """A later delivery of this message has claimed the call: say nothing, acknowledge nothing."""
    FINISH = auto()
    """The call is decided: publish End again, finish what remains, acknowledge."""


def claim(entry: Entry | None, job: JobMessage) -> Claim:
    """Decide what the holder of a job message does."""
    if entry is None:
        return Claim.CREATE
    if entry.done:
        return Claim.FINISH
    if entry.record.job_seq != job.sequence:
        return Claim.DROP
    return Claim.TAKE_OVER if job.delivery > entry.record.delivery else Claim.STALE


class Attach(Enum):
    """What a bridge does with a request whose id the caller chose."""

    STORE = auto()
    """Unknown: store the job."""
    FOLLOW = auto()
    """Running: read the call's log from the start."""
    ANSWER = auto()
    """Decided: answer from the record or the log."""
    REFUSE = auto()
    """The id was used for another body: ALREADY_EXISTS."""


def attach(entry: Entry | None, digest: bytes) -> Attach:
    """Decide how a bridge joins a call."""
    if entry is None:
        return Attach.STORE
    if entry.record.digest != digest:
        return Attach.REFUSE
    return Attach.ANSWER if entry.done else Attach.FOLLOW


def running(job: JobMessage) -> bus_pb2.Record:
    """The record of a claimed call."""
    return bus_pb2.Record(
        state=RUN, job_seq=job.sequence, delivery=job.delivery, digest=job.digest, log=job.log, at_ms=now_ms()
    )


def decided(before: bus_pb2.Record | None, digest: bytes, end: bus_pb2.End, follow_up: bytes = b"") -> bus_pb2.Record:
    """The record of a decided call. What the claim wrote is kept, so that the story can be told later."""
    record = bus_pb2.Record()
    if before is not None:
        record.CopyFrom(before)
    record.state = DONE
    record.digest = digest
    record.at_ms = now_ms()
    record.end.CopyFrom(end)
    record.follow_up = follow_up
    return record


def now_ms() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)
