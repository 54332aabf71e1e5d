"""The record of a call: its states and who may change them. Pure: it decides, `records` and `job` do.

Changed only by compare-and-set: absent → RUN → DONE, RUN → RUN at a take-over, and DONE → REOPENED → RUN when a failure is tried
again. The epoch is the revision that the claim was given. See the table in docs/bus-protocol.md, "The record".
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum, auto

from qingyu_ai.contract import bus_pb2

from .errors import retryable

RUN = bus_pb2.Record.STATE_RUN
DONE = bus_pb2.Record.STATE_DONE
REOPENED = bus_pb2.Record.STATE_REOPENED

SUSPECT_DEATHS = 2
"""Workers lost over a job after which it runs alone. One says little: all that ran beside a poison job has lost one."""

CLAIMS_KEPT = 16
"""Of the story that a record tells."""

DECISIONS_KEPT = 8
"""Of those that were reopened. Callers reopen no more than `retries` (3) times; an operator may, too."""


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
    """Which log there is now."""
    queue: str = ""
    """Which queue the message is in."""
    reopens: int = 0
    """The revision of the decision that this message is to reopen; 0: none, it is the call's first."""
    inbox: str = ""
    """Where its reader listens."""
    owner: bytes = b""
    """Whose it is (`owner.owner_of`)."""


class Claim(Enum):
    """What a worker that was given a job does about the record."""

    CREATE = auto()
    """First claim, of a new or a reopened call: set RUN. The revision it gets is the epoch."""
    TAKE_OVER = auto()
    """The worker before is lost: set RUN anew, then fence the log, then fold it."""
    BURY = auto()
    """As TAKE_OVER, but too many workers were lost over it: put the job aside instead of running it."""
    DROP = auto()
    """Another message of a call that runs: acknowledge it; the first one goes on."""
    STALE = auto()
    """A later delivery of this message has claimed the call: say nothing, acknowledge nothing."""
    FINISH = auto()
    """The call is decided: publish End again, finish what remains, acknowledge."""


def claim(entry: Entry | None, job: JobMessage, attempts: int) -> Claim:
    """Decide what the holder of a job message does.

    Args:
        attempts: claims that may be lost before the job is put aside.
    """
    if entry is None:
        return Claim.CREATE
    if entry.done:
        return Claim.FINISH
    held = entry.record
    if held.state == REOPENED:
        return Claim.CREATE if job.reopens == held.reopened else Claim.DROP
    if not other_queue(held, job.queue):
        if held.job_seq != job.sequence:
            return Claim.DROP
        if job.delivery <= held.delivery:
            return Claim.STALE
    return Claim.BURY if deaths(held) >= attempts else Claim.TAKE_OVER


def other_queue(held: bus_pb2.Record, queue: str) -> bool:
    """Whether the job message of a claim is gone with its queue. One that is not known counts for the same."""
    return bool(held.queue and queue and held.queue != queue)


def deaths(held: bus_pb2.Record) -> int:
    """Workers lost over a job, if the one that holds it now is lost too.

    One that ran other jobs as well makes a suspect of each of them, and no more: who is innocent is never put aside.
    """
    if held.state != RUN or held.given_back:
        return held.deaths
    return held.deaths + 1 if held.alone else max(held.deaths, min(held.deaths + 1, SUSPECT_DEATHS))


def rest_seconds(held: bus_pb2.Record, first: float) -> float:
    """How long a suspect is to rest before it is run again: a storm that kills workers passes, and a poison job does not.

    Args:
        first: after the first worker that was lost while it was alone; doubled with each further one.
    """
    lost_alone = deaths(held) - SUSPECT_DEATHS
    if lost_alone <= 0:
        return 0.0
    return held.at_ms / 1000 + first * 2.0 ** (lost_alone - 1) - time.time()


def epoch_of(entry: Entry) -> int:
    """The epoch of the claim that a record is of; 0: of none, or it is not known."""
    if entry.record.epoch or entry.record.state != RUN:
        return entry.record.epoch
    return entry.revision


def suspect(held: bus_pb2.Record) -> bool:
    """Whether whoever takes this job over must run it alone."""
    return deaths(held) >= SUSPECT_DEATHS


class Attach(Enum):
    """What a bridge does with a request whose id the caller chose."""

    STORE = auto()
    """Unknown, or its job message is lost or not stored yet: store the job."""
    REOPEN = auto()
    """It failed in a way that may be tried again: set REOPENED, then store the job."""
    FOLLOW = auto()
    """Running: read the call's log from the start."""
    ANSWER = auto()
    """Decided: answer from the record or the log."""
    REFUSE = auto()
    """The id was used for another body: ALREADY_EXISTS."""


def other_body(held: bus_pb2.Record, digest: bytes) -> bool:
    """Whether a record is of another request. Who cancels a call that is not known yet does not know its body."""
    return bool(held.digest) and held.digest != digest


def attach(entry: Entry | None, digest: bytes, retries: int, queue: str = "") -> Attach:
    """Decide how a bridge joins a call.

    Args:
        retries: how often a call may be reopened.
        queue: which queue there is now; empty: not known.
    """
    if entry is None:
        return Attach.STORE
    held = entry.record
    if other_body(held, digest):
        return Attach.REFUSE
    if held.state == REOPENED:
        return Attach.STORE
    if entry.done:
        return Attach.REOPEN if held.reopenings < retries and retryable(held.end.status) else Attach.ANSWER
    return Attach.STORE if other_queue(held, queue) else Attach.FOLLOW


def running(
    job: JobMessage,
    worker: str = "",
    before: bus_pb2.Record | None = None,
    log_age_seconds: float = math.inf,
    *,
    alone: bool = False,
) -> bus_pb2.Record:
    """The record of a claimed call.

    Args:
        worker: the claimant's token.
        before: what the claim replaces: REOPENED, or RUN of a worker that is lost.
        log_age_seconds: how long the log keeps what is said.
        alone: nothing else runs at the claimant.
    """
    value = bus_pb2.Record(
        state=RUN,
        job_seq=job.sequence,
        delivery=job.delivery,
        digest=job.digest,
        log=job.log,
        queue=job.queue,
        inbox=job.inbox,
        owner=job.owner,
        alone=alone,
        at_ms=now_ms(),
    )
    if before is not None:
        value.reopened = before.reopened
        value.reopenings = before.reopenings
        value.said = before.said
        value.earlier.extend(before.earlier)
        value.inbox = before.inbox or job.inbox
        other_log = bool(before.log and job.log and before.log != job.log)
        too_old = bool(before.claims) and value.at_ms - before.claims[0].at_ms > log_age_seconds * 1000
        value.restarted = before.restarted or other_log or too_old
        value.claims.extend([*before.claims[:1], *before.claims[1:][2 - CLAIMS_KEPT :]])
        value.deaths = deaths(before)
    value.claims.add(worker=worker, delivery=job.delivery, at_ms=value.at_ms)
    return value


def noted(held: bus_pb2.Record, epoch: int, **changes: object) -> bus_pb2.Record:
    """The record of a claim of which something has become known.

    Args:
        epoch: of the claim.
        changes: fields of the record.
    """
    record = bus_pb2.Record()
    record.CopyFrom(held)
    record.epoch = epoch
    for field, value in changes.items():
        setattr(record, field, value)
    return record


def decided(
    before: bus_pb2.Record | None, digest: bytes, end: bus_pb2.End, follow_up: bytes = b"", *, epoch: int = 0
) -> bus_pb2.Record:
    """The record of a decided call. What the claim wrote is kept, so that the story can be told later.

    Args:
        epoch: of the claim whose worker decides; 0: somebody else does.
    """
    record = bus_pb2.Record()
    if before is not None:
        record.CopyFrom(before)
    record.state = DONE
    record.epoch = epoch
    record.digest = digest
    record.at_ms = now_ms()
    record.end.CopyFrom(end)
    record.follow_up = follow_up
    return record


def reopened(entry: Entry) -> bus_pb2.Record:
    """The record of a decided call that is to be tried again. The next claim goes on with what the log holds.

    Workers that were lost over it still count: whoever asks again and again must not end them all.
    """
    record = bus_pb2.Record()
    record.CopyFrom(entry.record)
    record.state = REOPENED
    record.reopened = entry.revision
    record.reopenings += 1
    record.said = entry.record.end.count
    # Nobody may have told of this end yet, and the message of the job that could is dropped from now on.
    record.earlier.add(
        revision=entry.revision,
        at_ms=record.at_ms,
        epoch=record.epoch,
        end=record.end,
        claims=len(record.claims),
        deaths=record.deaths,
    )
    del record.earlier[:-DECISIONS_KEPT]
    record.at_ms = now_ms()
    record.epoch = 0
    record.given_back = record.alone = False
    record.ClearField("end")
    record.follow_up = b""
    return record


def now_ms() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)
