"""What a reader thinks when it has heard nothing for a lease, or was told to ask: the record knows (`bus/silence.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from qingyu_ai.bus.record import DONE, REOPENED

from . import product
from .bounds import Scene
from .reading import end_of, ended, mended, next_frame, settled
from .state import DATA_LOSS, READING, UNAVAILABLE, Entry, Reader, Record, State, Step


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what readers may learn from the record, at any moment."""
    for i, r in enumerate(s.readers):
        if r.at != READING:
            continue
        found = _judge(s, r, scene)
        if found is not None:
            what, after = found
            yield Step(("reader {} asks the record, and {}", i, what), s.show(i, after))


def _judge(s: State, r: Reader, scene: Scene) -> tuple[str, Reader] | None:
    """`Silence.judge`; None: it waits on."""
    entry = s.record
    held = entry.record if entry else None
    if entry is None or held is None or held.state == REOPENED:
        if r.astray and entry is None:
            return "nobody has begun: it reads the new log", settled(s, r)
        return _lose(r, UNAVAILABLE) if r.queue not in (0, s.queue) else None
    if r.astray:
        return _judge_astray(s, r, entry, scene)
    if r.replay is not None:
        return None
    if not (r.apart or r.fold.epoch) and (held.state != DONE or held.total):
        log = r.log if scene.rules.text_is_of_one_log else s.generation
        apart = r._replace(apart=True, wide=True, passed=0, behind=0, there=s.generation, log=log)
        return "reads the call's own log", apart
    if held.state == DONE:
        return _end_from_record(s, r, entry, scene)
    if r.queue and product.other_queue(held, s.queue):
        return _lose(r, DATA_LOSS if r.text else UNAVAILABLE)
    return None


def _lose(r: Reader, status: str) -> tuple[str, Reader]:
    return f"its job is lost: {status}", ended(r, status)


def _judge_astray(s: State, r: Reader, entry: Entry, scene: Scene) -> tuple[str, Reader] | None:
    """`Silence._judge_astray`."""
    held, rules = entry.record, scene.rules
    sure = not (r.unsure and rules.read_log_is_asked_for)
    if sure and product.epoch_of(entry) == r.fold.epoch if r.text else held.log == r.there:
        return "what is said in the new log goes on with what it has", settled(s, r)
    if held.state == DONE and (held.status or not (held.total or (r.text and rules.nothing_is_no_text))):
        after = end_of(s, r, held.status, scene)
        return f"ends: {after.end or 'OK'}", after
    if r.text or held.state == DONE:
        return "its log is lost", ended(r, DATA_LOSS)
    if r.queue and product.other_queue(held, s.queue) and rules.lost_queue_is_told_astray:
        return _lose(r, UNAVAILABLE)
    return None  # a claim in the new log may come


def _end_from_record(s: State, r: Reader, entry: Entry, scene: Scene) -> tuple[str, Reader] | None:
    """`Silence._end_from_record`."""
    held = entry.record
    rules = scene.rules
    heard = product.epoch_of(entry) in (0, r.fold.epoch) or not rules.epoch_is_compared
    if held.restarted and r.fold.awaits_base and rules.restart_needs_a_base:
        heard = False  # where its claim goes on is still to come
    mine = heard or not (held.total or not rules.no_text_is_anybodys)
    if held.status and r.behind:
        return "reads the rest of the log first", r._replace(replay=held)
    if held.status or (held.total == len(r.text) and mine):
        return _ends(s, r, held, scene)
    if r.behind:
        return None if r.seeks_end else ("misses the end, and reads all of the log", r._replace(seeks_end=True))
    if r.mended and next_frame(s, r, scene) is not None:
        return None  # what is on its way comes within a lease
    after = mended(r._replace(seeks_end=True))
    return ("its end is not there" if after.end else "misses the end, and reads the log again"), after


def _ends(s: State, r: Reader, held: Record, scene: Scene) -> tuple[str, Reader]:
    after = end_of(s, r, held.status, scene)
    return f"ends: {after.end or 'OK'}", after
