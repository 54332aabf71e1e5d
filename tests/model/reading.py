"""What a reader does with the frames of its call (`qingyu_ai/bus/reading.py`), and what its bridge shows of them."""

from __future__ import annotations

from collections.abc import Iterator

from qingyu_ai.bus.fold import Position, Verdict

from . import product
from .bounds import Scene
from .state import DATA_LOSS, ENDED, OK, READING, Frame, Reader, State, Step


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what readers may take from the log, each at its own pace."""
    for i, r in enumerate(s.readers):
        if r.at != READING:
            continue
        if r.there != s.generation:
            told = ("reader {} is told that the log is another one", i)
            yield Step(told, s.show(i, _told(s, r, scene)))
        if not r.astray:
            yield from _read(s, i, r, scene)


def ended(r: Reader, end: str) -> Reader:
    """A reader whose caller has been told the end."""
    return Reader(ENDED, r.inbox, r.bridge, text=r.text, end=end)


def _told(s: State, r: Reader, scene: Scene) -> Reader:
    """`Reading.reads`: what is said there is not taken before the record has been asked."""
    log = r.log if scene.rules.text_is_of_one_log else s.generation
    return r._replace(there=s.generation, log=log, passed=0, behind=0)


def settled(s: State, r: Reader) -> Reader:
    """`Reading.settle`: what is said in the new log goes on where this reader stands; it reads that from the start."""
    at = r.fold if r.text else Position(reopened=r.fold.reopened)
    return r._replace(log=r.there, fold=at, passed=0, behind=len(s.log) + 1, mended=False, unsure=False)


def next_frame(s: State, r: Reader, scene: Scene) -> tuple[int, Frame] | None:
    """The reader's next frame, and how much it has passed then."""
    if r.behind:  # whichever log it finds
        frames, wide = s.log, r.wide
    else:
        frames, wide = s.log if r.there == s.generation else s.lost, r.apart
        if not (scene.rules.one_order or r.apart):
            frames = s.heard
    for k in range(r.passed, len(frames)):
        if wide or frames[k].inbox == r.inbox:
            return k + 1, frames[k]
    return None


def _read(s: State, i: int, r: Reader, scene: Scene) -> Iterator[Step]:
    found = next_frame(s, r, scene)
    if found is None:
        if r.behind:
            after, what = _read_all(s, r, scene)
            yield Step(("reader {} has read all there is: {}", i, what), s.show(i, after))
        return
    passed, frame = found
    after, what = _take(s, r._replace(passed=passed, unsure=r.unsure or r.behind > 0), frame, scene)
    if r.behind and after.behind == r.behind and not (r.replay or r.seeks_end) and passed >= r.behind - 1:
        after = after._replace(behind=0)  # level with its consumer
    yield Step(("reader {} takes {}: {}", i, frame, what), s.show(i, after))


def _read_all(s: State, r: Reader, scene: Scene) -> tuple[Reader, str]:
    """`Reading._catch_up`, when the log has no more."""
    held = r.replay
    if held is not None:
        whole = held.status != OK or held.total == len(r.text)
        after = end_of(s, r, held.status, scene) if whole else ended(r, DATA_LOSS)
        return after, after.end or "OK"
    if r.passed < r.behind - 1:
        return ended(r, DATA_LOSS), "the log no longer holds what it had"
    return r._replace(behind=0), "it is level with its consumer"


def _take(s: State, r: Reader, frame: Frame, scene: Scene) -> tuple[Reader, str]:
    """`Reading._take`."""
    if frame.said == "elsewhere":
        return r, "it is to ask the record"
    fold, verdict = product.fold(r.fold, frame, scene.rules)
    after = r._replace(fold=fold)
    match verdict:
        case Verdict.SHOW:
            after = _show(s, after, frame, scene)
        case Verdict.END:
            after = end_of(s, after, frame.status, scene)
        case Verdict.LOST:
            after = ended(r, DATA_LOSS)
        case Verdict.HOLE if r.mended and not r.text:
            pass  # the rest of a text whose log was lost: whoever takes the call over begins where this reader stands
        case Verdict.HOLE:
            after = mended(after)
        case _:
            pass
    return after, verdict.name


def _show(s: State, r: Reader, frame: Frame, scene: Scene) -> Reader:
    """Show words; before the first that its caller does not have, `Caller.check_rest`."""
    text = r.text + frame.words
    first = bool(r.has) and len(r.text) <= len(r.has) < len(text)
    return ended(r, DATA_LOSS) if first and restarted(s, scene) else r._replace(text=text)


def restarted(s: State, scene: Scene) -> bool:
    """Whether the answer was begun anew."""
    return scene.rules.restart_is_told and s.record is not None and s.record.record.restarted


def end_of(s: State, r: Reader, status: str, scene: Scene) -> Reader:
    """An end. One that is OK is only for a text of one log (`Reading._make_sure`), and for who was shown at least what its
    caller has (`Resume.check_end`), and just that.
    """
    if status == OK and r.unsure and r.log != s.generation and scene.rules.read_log_is_asked_for:
        return ended(r, DATA_LOSS)
    all_it_has = bool(r.has) and len(r.text) <= len(r.has) and scene.rules.end_checks_the_rest
    lacks = len(r.text) < len(r.has) or (all_it_has and restarted(s, scene))
    return ended(r, DATA_LOSS if status == OK and lacks else status)


def mended(r: Reader) -> Reader:
    """`Reading._mend`: read the log again from the start, once; in all inboxes if nothing was heard in its own."""
    if r.mended:
        return ended(r, DATA_LOSS)
    return r._replace(mended=True, passed=0, behind=r.passed + 1, wide=r.wide or not r.fold.epoch)
