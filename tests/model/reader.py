"""What bridges may do: join the call, read its log frame by frame, ask its record when they hear nothing, withdraw it."""

from __future__ import annotations

from collections.abc import Iterator

from qingyu_ai.bus.fold import Position, Verdict
from qingyu_ai.bus.record import DONE, RUN, Attach

from . import product
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
    Frame,
    Job,
    Place,
    Reader,
    Scene,
    State,
    Step,
    Text,
)


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what the bridges may do."""
    away = next((i for i, r in enumerate(s.readers) if r.at == AWAY), None)
    if away is not None:
        yield from _join(s, away, scene)
    for i, r in enumerate(s.readers):
        if r.at == STORING:
            yield from _store(s, i, r)
        elif r.at == READING:
            yield from _read(s, i, r, scene)
            yield from _ask_record(s, i, r, scene)
    if s.budget.withdrawals and s.readers[0].at == READING:
        yield from _withdraw(s, scene)


def _ended(r: Reader, end: str) -> Reader:
    return Reader(ENDED, r.inbox, text=r.text, end=end)


def _join(s: State, i: int, scene: Scene) -> Iterator[Step]:
    """The same request comes to another bridge; perhaps from a caller whose bridge died, with what it has."""
    joined, how = _attach(s, i, (), scene)
    yield Step(("bridge {} is asked the same: {}", i, how), joined, due=False)
    first = s.readers[0]
    if s.budget.resumes and first.at == READING:
        joined, how = _attach(s, i, first.text, scene)
        joined = joined.show(0, _ended(first, GONE)._replace(text=()), budget=s.spend("resumes"))
        told = ("bridge 0 dies; its caller has {} and asks bridge {}: {}", len(first.text), i, how)
        yield Step(told, joined, due=False)


def _attach(s: State, i: int, has: Text, scene: Scene) -> tuple[State, str]:
    inbox = s.readers[i].inbox
    decision = product.attach(s.record, scene.bounds.retries, s.queue)
    held = s.record.record if s.record else None
    reopens = held.reopened if held else 0
    record = s.record
    if decision is Attach.REOPEN:
        assert record is not None
        reopens = record.revision
        record = Entry(record.revision + 1, product.reopened(record))
    place = Place(Position(reopened=reopens if scene.rules.reopening_voids_the_failure else 0))
    log = (held.log if held else 0) or s.generation
    reader = Reader(READING, inbox, held is not None, fold=place, log=log, has=has, reopens=reopens)
    if decision in (Attach.STORE, Attach.REOPEN):
        reader = reader._replace(at=STORING)
    elif decision is Attach.ANSWER:
        reader = reader._replace(replay=held)
    return s.show(i, reader, record=record), decision.name


def _store(s: State, i: int, r: Reader) -> Iterator[Step]:
    """Put the job into the queue, under the number of the next message."""
    job = Job(s.stored + 1, r.inbox, s.queue, r.reopens)
    reading = r._replace(at=READING)
    told = ("bridge {} stores the job as message {}", i, job.sequence)
    yield Step(told, s.show(i, reading, jobs=(*s.jobs, job), stored=job.sequence))
    if s.budget.bridge_deaths:
        died = s.show(i, _ended(r, GONE), budget=s.spend("bridge_deaths"))
        yield Step(("bridge {} dies before it stores the job", i), died, due=False)


def _next(s: State, r: Reader, scene: Scene) -> tuple[int, Frame] | None:
    """The reader's next frame, and how much it has passed then."""
    frames = s.log if scene.rules.one_order or r.apart else s.heard
    for k in range(r.passed, len(frames)):
        if r.apart or frames[k].inbox == r.inbox:
            return k + 1, frames[k]
    return None


def _read(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    if _in_other_log(s, r, scene):
        yield from _find_other_log(s, i, r, scene)
        return
    found = _next(s, r, scene)
    if found is None:
        if r.replay is not None:
            whole = r.replay.status != OK or r.replay.total == len(r.text)
            ended = _end(s, r, r.replay.status, scene) if whole else _ended(r, DATA_LOSS)
            yield Step(("reader {} has read all of a decided call: {}", i, ended.end or "OK"), s.show(i, ended))
        return
    passed, frame = found
    fold, verdict = product.fold(r.fold, frame, scene.rules)
    after = r._replace(passed=passed, fold=fold)
    match verdict:
        case Verdict.SHOW:
            after = _show(s, after, frame, scene)
        case Verdict.END:
            after = _end(s, after, frame.status, scene)
        case Verdict.LOST:
            after = _ended(r, DATA_LOSS)
        case Verdict.HOLE:
            after = _mend(r, scene)
        case _:
            pass
    yield Step(("reader {} takes {}: {}", i, frame, verdict.name), s.show(i, after))


def _in_other_log(s: State, r: Reader, scene: Scene) -> bool:
    return r.log != s.generation and scene.rules.text_is_of_one_log


def _find_other_log(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    """The log was made anew, and fences may be lost with the one before: the record knows whether to read this one.

    It does so from its beginning, if nobody has claimed the call, or if the last claim was made in it; and only if
    nothing was shown from another one. A decided call is over; of one that still runs, another claim may come.
    """
    record = s.record.record if s.record else None
    if not r.text and (record is None or record.log in (0, s.generation)):
        place = Place(Position(reopened=r.fold.position.reopened))
        after = r._replace(log=s.generation, passed=0, fold=place, mended=False)
        yield Step(("reader {} finds another log, and has shown nothing: it reads that", i), s.show(i, after))
    elif record is not None and (record.state == DONE or record.log == s.generation):
        known = record.state == DONE and (record.status != OK or record.total == len(r.text))
        after = _end(s, r, record.status, scene) if known else _ended(r, DATA_LOSS)
        yield Step(("reader {} finds another log and ends: {}", i, after.end or "OK"), s.show(i, after))


def _show(s: State, r: Reader, frame: Frame, scene: Scene) -> Reader:
    text = r.text + frame.words
    if len(text) > len(r.has) and _restarted(s, r, scene):
        return _ended(r, DATA_LOSS)
    return r._replace(text=text)


def _restarted(s: State, r: Reader, scene: Scene) -> bool:
    """Whether the caller has text from a log that was lost, and a claim has begun it anew."""
    return bool(r.has and scene.rules.restart_is_told and s.record and s.record.record.restarted)


def _end(s: State, r: Reader, status: str, scene: Scene) -> Reader:
    """An end that is OK is only for who has, and was shown, everything; and all of it in the log of the last claim."""
    other_log = bool(r.text) and s.record is not None and r.log != s.record.record.log
    lost = len(r.text) < len(r.has) or _restarted(s, r, scene) or (other_log and scene.rules.text_is_of_one_log)
    return _ended(r, DATA_LOSS if status == OK and lost else status)


def _mend(r: Reader, scene: Scene) -> Reader:
    """Read the log again from the start, once."""
    if r.mended:
        return _ended(r, DATA_LOSS)
    return r._replace(mended=True, passed=0, apart=r.apart or scene.rules.hole_reads_the_whole_call)


def _ask_record(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    """Nothing was heard for a lease (`bus/silence.py`)."""
    if s.record is None:
        return
    record = s.record.record
    if record.state == DONE:
        if record.status != OK or record.total == len(r.text):
            ended = _end(s, r, record.status, scene)
            yield Step(("reader {} asks the record and ends: {}", i, ended.end or "OK"), s.show(i, ended))
        elif _in_other_log(s, r, scene):
            return
        elif not r.mended or _next(s, r, scene) is None:
            again = _mend(r, scene)
            what = "ends: DATA_LOSS" if again.at == ENDED else "reads the log again"
            yield Step(("reader {} asks the record, misses the end and {}", i, what), s.show(i, again))
    elif not r.apart and not r.fold.position.epoch:
        apart = r._replace(apart=True, passed=0)
        yield Step(("reader {} asks the record: the call runs; it reads the call's own log", i), s.show(i, apart))
    elif record.state == RUN and record.log != s.generation:
        told = ("reader {} asks the record: its log is lost; it ends {}", i, UNAVAILABLE)
        yield Step(told, s.show(i, _ended(r, UNAVAILABLE)), due=False)


def _withdraw(s: State, scene: Scene) -> Iterator[Step]:
    """The first caller leaves, or its deadline passes: its bridge decides the call, whoever has it."""
    r = s.readers[0]
    if s.record and s.record.record.state == DONE:
        return
    status = scene.bounds.withdrawn
    before = s.record.record if s.record else None
    record = Entry(s.revision + 1, product.decided(before, status, len(r.text)))
    told = ("bridge 0 decides the call: DONE({})", status)
    yield Step(told, s.show(0, _ended(r, status), record=record, budget=s.spend("withdrawals")), due=False)
