"""The product's own fold and record transitions, on the model's small values.

What is explored is the code that runs: `qingyu_ai.bus.fold` and `qingyu_ai.bus.record`. Protobuf messages are slow to make,
so answers are remembered.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import cache

from qingyu_ai.bus import fold as product_fold
from qingyu_ai.bus import record as product_record
from qingyu_ai.bus.errors import BusDown, Cancelled, Expired, Internal
from qingyu_ai.bus.fold import Position, Verdict
from qingyu_ai.bus.record import Attach, Claim, JobMessage
from qingyu_ai.contract import bus_pb2

from .bounds import CANCELLED, DEADLINE_EXCEEDED
from .rules import Rules
from .state import INTERNAL, OK, UNAVAILABLE, Entry, Frame, Job, Record, Text

DIGEST = b"d" * 16

STATUS = {
    OK: b"",
    UNAVAILABLE: BusDown("it does not answer in time").status,
    DEADLINE_EXCEEDED: Expired().status,
    CANCELLED: Cancelled().status,
    INTERNAL: Internal("1").status,
}
NAME = {status: name for name, status in STATUS.items()}


def fold(at: Position, frame: Frame, rules: Rules) -> tuple[Position, Verdict]:
    """See `qingyu_ai.bus.fold.fold`. A rule that is off is one that the frame, or the position, does not tell it of."""
    base = frame.base
    if not rules.base_is_checked or (base is None and not rules.base_is_demanded):
        base = at.next
    if not rules.base_is_checked_behind_the_fence:
        at = replace(at, awaits_base=False)
    return _fold(at, frame.epoch, frame.seq, frame.said, frame.span, base, frame.status, frame.total)


@cache
def _fold(
    at: Position, epoch: int, seq: int, said: str, span: int, base: int | None, status: str, count: int
) -> tuple[Position, Verdict]:
    frame = bus_pb2.Frame(epoch=epoch, seq=seq, base=base)
    match said:
        case "data":
            frame.data.chunk.append(b"...")
            if span > 1:
                frame.data.span.append(span)
        case "end":
            frame.end.CopyFrom(bus_pb2.End(status=STATUS[status], count=count))
        case "elsewhere":
            frame.elsewhere.SetInParent()
        case _:
            frame.fence.SetInParent()
    return product_fold.fold(at, frame)


def _thaw(record: Record) -> bus_pb2.Record:
    thawed = bus_pb2.Record(
        state=bus_pb2.Record.State.ValueType(record.state),
        job_seq=record.job_seq,
        delivery=record.delivery,
        digest=DIGEST,
        log=name_of(record.log),
        queue=name_of(record.queue),
        deaths=record.deaths,
        given_back=record.given_back,
        reopened=record.reopened,
        reopenings=record.reopenings,
        restarted=record.restarted,
        inbox=name_of(record.inbox),
        alone=record.alone,
        said=record.said,
        epoch=record.epoch,
    )
    if record.state == product_record.DONE:
        thawed.end.CopyFrom(bus_pb2.End(status=STATUS[record.status], count=record.total))
        thawed.follow_up = repr(record.follow_up).encode() if record.follow_up else b""
    return thawed


def _freeze(record: bus_pb2.Record) -> Record:
    return Record(
        state=record.state,
        job_seq=record.job_seq,
        delivery=record.delivery,
        log=_number(record.log),
        queue=_number(record.queue),
        status=NAME[record.end.status],
        total=record.end.count,
        follow_up=ast.literal_eval(record.follow_up.decode()) if record.follow_up else (),
        deaths=record.deaths,
        given_back=record.given_back,
        reopened=record.reopened,
        reopenings=record.reopenings,
        restarted=record.restarted,
        inbox=_number(record.inbox),
        alone=record.alone,
        said=record.said,
        epoch=record.epoch,
    )


def name_of(number: int) -> str:
    return f"n{number}" if number else ""


def _number(name: str) -> int:
    return int(name[1:]) if name else 0


def _entry(entry: Entry | None) -> product_record.Entry | None:
    return product_record.Entry(entry.revision, _thaw(entry.record)) if entry else None


def _message(job: Job, log: int) -> JobMessage:
    return JobMessage(
        job.sequence, job.delivery, DIGEST, name_of(log), name_of(job.queue), job.reopens, inbox=name_of(job.inbox)
    )


@cache
def claim(entry: Entry | None, job: Job, log: int, attempts: int) -> Claim:
    """See `qingyu_ai.bus.record.claim`."""
    return product_record.claim(_entry(entry), _message(job, log), attempts)


@cache
def suspect(record: Record) -> bool:
    """See `qingyu_ai.bus.record.suspect`."""
    return product_record.suspect(_thaw(record))


@cache
def running(job: Job, log: int, before: Record | None, *, alone: bool) -> Record:
    """See `qingyu_ai.bus.record.running`."""
    return _freeze(product_record.running(_message(job, log), "w", _thaw(before) if before else None, alone=alone))


@cache
def decided(before: Record | None, status: str, count: int, follow_up: Text = (), epoch: int = 0) -> Record:
    """See `qingyu_ai.bus.record.decided`."""
    end = bus_pb2.End(status=STATUS[status], count=count)
    left = repr(follow_up).encode() if follow_up else b""
    held = _thaw(before) if before else None
    return _freeze(product_record.decided(held, DIGEST, end, left, epoch=epoch))


@cache
def reopened(entry: Entry) -> Record:
    """See `qingyu_ai.bus.record.reopened`."""
    held = _entry(entry)
    assert held is not None
    return _freeze(product_record.reopened(held))


@cache
def noted(record: Record, epoch: int, field: str, value: object) -> Record:
    """See `qingyu_ai.bus.record.noted`."""
    return _freeze(product_record.noted(_thaw(record), epoch, **{field: value}))


@cache
def epoch_of(entry: Entry) -> int:
    """See `qingyu_ai.bus.record.epoch_of`."""
    held = _entry(entry)
    assert held is not None
    return product_record.epoch_of(held)


@cache
def attach(entry: Entry | None, retries: int, queue: int) -> Attach:
    """See `qingyu_ai.bus.record.attach`."""
    return product_record.attach(_entry(entry), DIGEST, retries, name_of(queue))


@cache
def other_queue(record: Record, queue: int) -> bool:
    """See `qingyu_ai.bus.record.other_queue`."""
    return product_record.other_queue(_thaw(record), name_of(queue))
