"""What a bridge does with a request: bring its call into being, or join it (`Caller.submit` in `qingyu_ai/bus/call.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from qingyu_ai.bus.fold import Position
from qingyu_ai.bus.record import DONE, RUN, Attach

from . import product
from .bounds import Scene
from .reading import end_of, ended, restarted
from .state import (
    AWAY,
    DATA_LOSS,
    ENDED,
    GONE,
    OK,
    READING,
    STORING,
    UNAVAILABLE,
    Entry,
    Job,
    Reader,
    State,
    Step,
    Text,
)


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what may become of requests."""
    away = next((i for i, r in enumerate(s.readers) if r.at == AWAY), None)
    if away is not None:
        yield from _join(s, away, scene)
    for i, r in enumerate(s.readers):
        if r.at == STORING:
            yield from _store(s, i, r, scene)
    if s.budget.withdrawals and s.readers[0].at == READING:
        yield from _withdraw(s, scene)


def _join(s: State, i: int, scene: Scene) -> Iterator[Step]:
    """The same request comes to another bridge; perhaps from a caller whose bridge died, with what it has."""
    first = s.readers[0]
    for there in {s.generation, max(1, s.generation - 1)}:
        joined, how = _submit(s, i, (), there, scene)
        yield Step(("bridge {} is asked the same: {}", i, how), joined, due=False)
        if s.budget.resumes and first.at == READING:
            joined, how = _submit(s, i, first.text, there, scene)
            joined = joined.show(0, ended(first, GONE)._replace(text=()), budget=s.spend("resumes"))
            told = ("bridge 0 dies; its caller has {} and asks bridge {}: {}", len(first.text), i, how)
            yield Step(told, joined, due=False)


def _submit(s: State, i: int, has: Text, there: int, scene: Scene) -> tuple[State, str]:
    """`Caller.submit`.

    Args:
        has: what the caller has.
        there: the log that the bridge takes for the one that is there.
    """
    rules = scene.rules
    decision = product.attach(s.record, scene.bounds.retries, s.queue)
    record = s.record
    begun_anew = bool(has) and (record is None or (record.record.restarted and rules.restart_is_told))
    if decision is Attach.REOPEN and not (begun_anew and rules.begun_is_checked_before_reopening):
        assert record is not None
        record = Entry(record.revision + 1, product.reopened(record))
    held = record.record if record else None
    reopens = held.reopened if held else 0
    at = Position(reopened=reopens if rules.reopening_voids_the_failure else 0)
    before = s.readers[i]
    reader = Reader(READING, before.inbox, before.bridge, fold=at, log=there, there=there, has=has, reopens=reopens)
    if decision is Attach.ANSWER:
        return s.show(i, _answer(s, reader, scene)), decision.name
    if begun_anew:
        return s.show(i, ended(reader, DATA_LOSS), record=record), decision.name
    if held is not None:
        log = held.log if held.state == RUN and rules.text_is_of_one_log else s.generation
        reader = reader._replace(apart=True, wide=True, there=s.generation, log=log)
    if decision is Attach.FOLLOW:
        return s.show(i, reader), decision.name
    if _stored_here(s, reader):
        joined = reader._replace(apart=True, wide=True, there=s.generation, log=s.generation, queue=s.queue)
        return s.show(i, joined, record=record), "JOIN"
    return s.show(i, reader._replace(at=STORING), record=record), decision.name


def _stored_here(s: State, r: Reader) -> bool:
    """Whether another request of this bridge has just stored the job (`Caller._store_or_join`)."""
    return any(o.bridge == r.bridge and o.stores and o.at != ENDED and o.reopens == r.reopens for o in s.readers)


def _answer(s: State, r: Reader, scene: Scene) -> Reader:
    """`Caller._answer`: from the log, as far as that goes."""
    assert s.record is not None
    held, rules = s.record.record, scene.rules
    if not held.total:
        return end_of(s, r, held.status, scene)
    if r.has and restarted(s, scene):
        return ended(r, DATA_LOSS)
    if held.log not in (0, s.generation) and rules.logs_are_compared:
        return ended(r, held.status or DATA_LOSS)
    there = s.generation
    return r._replace(replay=held, apart=True, wide=True, behind=1, log=there, there=there)


def _store(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    """Put the job into the queue, under the number of the next message."""
    job = Job(s.stored + 1, r.inbox, s.queue, r.reopens)
    reading = r._replace(at=READING, queue=s.queue, stores=True)
    stored = s.show(i, reading, jobs=(*s.jobs, job), stored=job.sequence)
    yield Step(("bridge {} stores the job as message {}", i, job.sequence), stored)
    if s.budget.bridge_deaths:
        died = s.show(i, ended(r, GONE), budget=s.spend("bridge_deaths"))
        yield Step(("bridge {} dies before it stores the job", i), died, due=False)
    if s.budget.refusals:
        for what, after in (("is refused", s), ("hears nothing of", stored)):
            refused = _refused(after, i, scene)._replace(budget=s.spend("refusals"))
            yield Step(("bridge {} {} the job", i, what), refused, due=False)


def _refused(s: State, i: int, scene: Scene) -> State:
    """`Caller._refused`: who stored it is told, and who joined here; not who has heard of the call."""
    bridge = s.readers[i].bridge
    told = [
        ended(r, UNAVAILABLE)
        if r.at in (READING, STORING)
        and not r.fold.epoch
        and (n == i or (r.bridge == bridge and scene.rules.joined_are_told))
        else r
        for n, r in enumerate(s.readers)
    ]
    return s._replace(readers=tuple(told))


def _withdraw(s: State, scene: Scene) -> Iterator[Step]:
    """The first caller leaves, or its deadline passes: its bridge decides the call, whoever has it."""
    r = s.readers[0]
    if s.record and s.record.record.state == DONE:
        return
    status = scene.bounds.withdrawn
    before = s.record.record if s.record else None
    record = Entry(s.revision + 1, product.decided(before, status, len(r.text)))
    told = ("bridge 0 decides the call: DONE({})", status or OK)
    yield Step(told, s.show(0, ended(r, status), record=record, budget=s.spend("withdrawals")), due=False)
