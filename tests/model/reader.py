"""What bridges may do: join the call, read its log frame by frame, ask its record when they hear nothing, withdraw it."""

from __future__ import annotations

from collections.abc import Iterator

from qingyu_ai.bus.fold import Position, Verdict
from qingyu_ai.bus.record import DONE, REOPENED, Attach

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
    Reader,
    Record,
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
    """`Caller.submit`."""
    decision = product.attach(s.record, scene.bounds.retries, s.queue)
    record = s.record
    if decision is Attach.REOPEN:
        assert record is not None
        record = Entry(record.revision + 1, product.reopened(record))
    held = record.record if record else None
    reopens = held.reopened if held else 0
    at = Position(reopened=reopens if scene.rules.reopening_voids_the_failure else 0)
    log = held.log if held and held.log and scene.rules.text_is_of_one_log else s.generation
    reader = Reader(READING, s.readers[i].inbox, held is not None, fold=at, log=log, has=has, reopens=reopens)
    if decision is Attach.ANSWER:
        reader = _replay(s, reader, scene)
    elif has and (held is None or (held.restarted and scene.rules.restart_is_told)):
        reader = _ended(reader, DATA_LOSS)
    elif decision in (Attach.STORE, Attach.REOPEN):
        reader = reader._replace(at=STORING)
    return s.show(i, reader, record=record), decision.name


def _replay(s: State, r: Reader, scene: Scene) -> Reader:
    """`Caller._answer`: from the log, as far as that goes."""
    assert s.record is not None
    held = s.record.record
    if not held.total:
        return _end(s, r, held.status, scene)
    if r.has and held.restarted and scene.rules.restart_is_told:
        return _ended(r, DATA_LOSS)
    if held.status == OK and held.log not in (0, s.generation) and scene.rules.logs_are_compared:
        return _ended(r, DATA_LOSS)
    return r._replace(replay=held)


def _store(s: State, i: int, r: Reader) -> Iterator[Step]:
    """Put the job into the queue, under the number of the next message."""
    job = Job(s.stored + 1, r.inbox, s.queue, r.reopens)
    reading = r._replace(at=READING, queue=s.queue)
    told = ("bridge {} stores the job as message {}", i, job.sequence)
    yield Step(told, s.show(i, reading, jobs=(*s.jobs, job), stored=job.sequence))
    if s.budget.bridge_deaths:
        died = s.show(i, _ended(r, GONE), budget=s.spend("bridge_deaths"))
        yield Step(("bridge {} dies before it stores the job", i), died, due=False)


def _next(s: State, r: Reader, scene: Scene) -> tuple[int, Frame] | None:
    """The reader's next frame, and how much it has passed then."""
    frames = s.log if scene.rules.one_order or r.apart else s.heard
    for k in range(r.passed, len(frames)):
        if r.apart or k < r.wide or frames[k].inbox == r.inbox:
            return k + 1, frames[k]
    return None


def _read(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    """`Reading._take`."""
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
    if frame.said == "elsewhere":
        yield Step(("reader {} is told to ask the record", i), s.show(i, r._replace(passed=passed)))
        return
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
            after = _mend(r, passed, scene)
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
    held = s.record.record if s.record else None
    if not r.text and (held is None or held.log in (0, s.generation)):
        at = Position(reopened=r.fold.reopened)
        after = r._replace(log=s.generation, passed=0, wide=0, fold=at, mended=False)
        yield Step(("reader {} finds another log, and has shown nothing: it reads that", i), s.show(i, after))
    elif held is not None and (held.state == DONE or held.log == s.generation):
        whole = held.status != OK or (held.total == len(r.text) and held.log == r.log)
        after = _end(s, r, held.status, scene) if held.state == DONE and whole else _ended(r, DATA_LOSS)
        yield Step(("reader {} finds another log and ends: {}", i, after.end or "OK"), s.show(i, after))


def _show(s: State, r: Reader, frame: Frame, scene: Scene) -> Reader:
    """Show words; before the first that its caller does not have, `Caller.check_rest`."""
    text = r.text + frame.words
    first = bool(r.has) and len(r.text) <= len(r.has) < len(text)
    if first and _restarted(s, scene):
        return _ended(r, DATA_LOSS)
    return r._replace(text=text)


def _restarted(s: State, scene: Scene) -> bool:
    return scene.rules.restart_is_told and s.record is not None and s.record.record.restarted


def _end(s: State, r: Reader, status: str, scene: Scene) -> Reader:
    """An end that is OK is only for who was shown at least what its caller has (`Resume.check_end`), and just that."""
    other = bool(r.has) and scene.rules.end_checks_the_rest and _restarted(s, scene)
    return _ended(r, DATA_LOSS if status == OK and (len(r.text) < len(r.has) or other) else status)


def _mend(r: Reader, until: int, scene: Scene) -> Reader:
    """Read the log again from the start, once; in all inboxes if nothing was heard in its own (`Reading._mend`)."""
    if r.mended:
        return _ended(r, DATA_LOSS)
    wide = not r.fold.epoch and scene.rules.hole_reads_the_whole_call
    return r._replace(mended=True, passed=0, wide=until if wide else 0)


def _ask_record(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    """Nothing was heard for a lease (`bus/silence.py`)."""
    if r.replay is not None or _in_other_log(s, r, scene):
        return
    held = s.record.record if s.record else None
    if held is None or held.state == REOPENED:
        if r.queue not in (0, s.queue):
            yield _lose(s, i, r, UNAVAILABLE)
    elif not (r.apart or r.fold.epoch) and (held.state != DONE or held.total):
        apart = r._replace(apart=True, passed=0)
        yield Step(("reader {} asks the record, and reads the call's own log", i), s.show(i, apart))
    elif held.state == DONE:
        yield from _end_from_record(s, i, r, held, scene)
    elif r.queue and product.other_queue(held, s.queue):
        yield _lose(s, i, r, DATA_LOSS if r.text else UNAVAILABLE)


def _lose(s: State, i: int, r: Reader, status: str) -> Step:
    told = ("reader {} asks the record, and its job is lost: {}", i, status)
    return Step(told, s.show(i, _ended(r, status)))


def _end_from_record(s: State, i: int, r: Reader, held: Record, scene: Scene) -> Iterator[Step]:
    other_log = held.log not in (0, r.log) and scene.rules.logs_are_compared
    if held.status == OK and r.text and other_log:
        after = _ended(r, DATA_LOSS)
    elif held.status != OK or held.total == len(r.text):
        after = _end(s, r, held.status, scene)
    elif not r.mended or _next(s, r, scene) is None:
        after = _mend(r, len(s.log), scene)
    else:
        return  # it reads the log again already
    what = f"ends: {after.end or 'OK'}" if after.at == ENDED else "misses the end, and reads the log again"
    yield Step(("reader {} asks the record, and {}", i, what), s.show(i, after))


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
