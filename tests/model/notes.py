"""What a claim writes into its record while it runs (`Claimed.note`), and when (`JobRun`): none of it decides the call."""

from __future__ import annotations

from collections.abc import Iterator

from . import product
from .bounds import Scene
from .state import COMMITTING, FENCING, FOLDING, GIVING_BACK, SPEAKING, Entry, State, Step, Worker

RUNS = (FENCING, FOLDING, SPEAKING, COMMITTING)
"""Where a worker has a claim that is not decided."""


def write_allowed(s: State, w: Worker, scene: Scene) -> bool:
    """Whether the record is still as this worker read or wrote it last."""
    expected = w.seen.revision if w.seen else 0
    return s.revision == expected or not scene.rules.compare_and_set


def note(s: State, w: Worker, scene: Scene, field: str, value: object) -> Entry | None:
    """Write one field; None: the claim does not hold any more."""
    assert w.seen is not None
    if not write_allowed(s, w, scene) and scene.rules.note_is_compared:
        return None
    return Entry(s.revision + 1, product.noted(w.seen.record, w.epoch, field, value))


def noted(w: Worker, entry: Entry, scene: Scene) -> Worker:
    """The worker afterwards: it goes on under the epoch that its claim was given."""
    return w._replace(seen=entry, epoch=w.epoch if scene.rules.epoch_outlives_notes else entry.revision)


def steps(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """Yield the notes that come beside the run."""
    if w.at not in RUNS or w.seen is None:
        return
    if w.seen.record.alone:
        yield from _beside(s, i, w, scene, "is alone no longer", "alone", False)
    if w.seen.record.log != s.generation and _all_is_there(s, w, scene):
        what = "says that all it has said is in the new log"
        yield from _beside(s, i, w, scene, what, "log", product.name_of(s.generation))


def _all_is_there(s: State, w: Worker, scene: Scene) -> bool:
    """`JobRun.move`: nothing was said yet, or the log has it from the first word on (`begins_here`)."""
    if w.at in (FENCING, FOLDING) and scene.rules.take_over_is_not_moved:
        return False  # what was said before is not known yet
    first = next((frame for frame in s.log if frame.inbox == w.inbox), None)
    return not (w.text or w.frame) or (first is not None and first.epoch == w.epoch and first.base == 0)


def _beside(s: State, i: int, w: Worker, scene: Scene, what: str, field: str, value: object) -> Iterator[Step]:
    entry = note(s, w, scene, field, value)
    if entry is not None:
        yield Step(("worker {} {}", w.job, what), s.put(i, noted(w, entry, scene), record=entry), due=False)


def give_back(s: State, i: int, w: Worker, scene: Scene, why: str) -> Step:
    """Say in the record that this worker is not lost over the job, if the call is still its own."""
    told = ("worker {} {}, and gives the job back", w.job, why)
    entry = note(s, w, scene, "given_back", True)
    if entry is None:
        return Step(told, s.put(i, Worker()))
    return Step(told, s.put(i, w.on(GIVING_BACK), record=entry))
