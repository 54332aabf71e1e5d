"""What a worker may do, step by step as `JobRun` in `qingyu_ai/bus/job.py` does it. Between two steps it may pause or die.

given · claiming · (fencing · folding) · speaking · committing · ending · following · acking
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qingyu_ai.bus.fold import Position, Verdict
from qingyu_ai.bus.record import DONE, RUN, Claim

from . import notes, product
from .bounds import Scene
from .notes import give_back, note, noted, write_allowed
from .state import (
    ACKING,
    CLAIMING,
    COMMITTING,
    ENDING,
    FENCING,
    FOLDING,
    FOLLOWING,
    GIVEN,
    GIVING_BACK,
    IDLE,
    INTERNAL,
    LOSING,
    OK,
    SPEAKING,
    UNAVAILABLE,
    Entry,
    Frame,
    State,
    Step,
    Text,
    Worker,
)


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what the workers may do. Of two that are alike, one is enough."""
    for i, w in enumerate(s.workers):
        if w.at == IDLE or w in s.workers[:i]:
            continue
        yield from DOES[w.at](s, i, w, scene)
        yield from notes.steps(s, i, w, scene)
        if s.budget.deaths:
            yield Step(
                ("worker {} dies while {}", w.job, w.at), s.put(i, Worker(), budget=s.spend("deaths")), due=False
            )


def _given(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """Read the record and decide what to do with the message."""
    assert w.job is not None
    decision = product.claim(s.record, w.job, w.log, scene.bounds.attempts)
    if not scene.rules.record_is_the_judge:
        decision = Claim.TAKE_OVER if s.record else Claim.CREATE
    told = ("worker {} reads the record: {}", w.job, decision.name)
    match decision:
        case Claim.CREATE | Claim.TAKE_OVER | Claim.BURY:
            buried = decision is Claim.BURY
            yield Step(told, s.put(i, w._replace(at=CLAIMING, seen=s.record, buried=buried)))
        case Claim.FINISH:
            yield Step(told, s.put(i, _finishing(s, w, scene)))
        case Claim.DROP:
            elsewhere = Frame(w.job.inbox, 0, 0, 0, "elsewhere")
            yield Step(told, s.put(i, w.on(ACKING), log=(*s.log, elsewhere)))
        case Claim.STALE:
            yield Step(told, s.put(i, Worker()))


def _claiming(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """Compare-and-set to RUN. A record that existed before may belong to a worker that has spoken: fence."""
    assert w.job is not None
    if not write_allowed(s, w, scene):
        again = w.on(GIVEN, log=w.log)
        yield Step(("worker {} finds the record changed, and reads it", w.job), s.put(i, again))
        return
    rules = scene.rules
    before = w.seen.record if w.seen else None
    suspect = before is not None and not w.buried and product.suspect(before)
    for alone in (False, True) if suspect else (False,):
        claim = Entry(s.revision + 1, product.running(w.job, w.log, before, alone=alone))
        at = SPEAKING
        if before is not None and (rules.every_claim_fences or before.state == RUN):
            at = FENCING if rules.fence and rules.fence_then_fold else FOLDING
        epoch = claim.revision if rules.epoch_is_revision else w.job.delivery
        inbox = claim.record.inbox if rules.one_inbox else w.job.inbox
        told = ("worker {} claims the call{}: RUN, epoch {}", w.job, ", alone" if alone else "", epoch)
        knows = 0 if at == SPEAKING else w.log
        mine = w._replace(at=at, log=knows, seen=claim, voice=claim.revision, epoch=epoch, inbox=inbox)
        yield Step(told, s.put(i, mine, record=claim))


def _say(s: State, i: int, w: Worker, frame: Frame, after: Worker, scene: Scene) -> Iterator[Step]:
    """Say a frame and wait until it is stored; `after` is the worker from then on."""
    if not scene.rules.said_when_stored:
        yield Step(("worker {} sends {}, and goes on", w.job, frame), s.put(i, after, network=(*s.network, frame)))
        return
    if not scene.rules.one_order and not w.aired:
        heard = w._replace(frame=frame, aired=True)
        yield Step(("worker {} sends {}: live readers hear it", w.job, frame), s.put(i, heard, heard=(*s.heard, frame)))
        return
    yield Step(("worker {} stores {}", w.job, frame), s.put(i, after, log=(*s.log, frame)))
    if s.budget.resends:
        told = ("worker {} hears no acknowledgement of {}, and will send it again", w.job, frame)
        waits = s.put(i, w._replace(frame=frame), network=(*s.network, frame), budget=s.spend("resends"))
        yield Step(told, waits, due=False)


def _fencing(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    assert w.job is not None
    assert w.seen is not None
    fence = Frame(w.inbox, w.voice, w.epoch, len(w.text), "fence")
    at = FOLDING if scene.rules.fence_then_fold else SPEAKING
    yield from _say(s, i, w, fence, w._replace(at=at, frame=None, aired=False, fence=len(s.log)), scene)


def _folding(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """Fold what the log held before the fence; go on there, or give the job back if that is another log."""
    assert w.job is not None
    assert w.seen is not None
    rules = scene.rules
    first_fold = not (rules.fence and rules.fence_then_fold)
    if not first_fold and len(s.log) <= w.fence:
        yield give_back(s, i, w, scene, "does not find its fence in the log")
        return
    if rules.log_is_asked_after_the_fold and s.generation != w.log:
        yield give_back(s, i, w, scene, "finds another log")
        return
    below = [frame for frame in (s.log if first_fold else s.log[: w.fence]) if frame.inbox == w.inbox]
    text = _fold(below, w, scene)
    at = FENCING if rules.fence and not rules.fence_then_fold else SPEAKING
    told = ("worker {} folds {} frames and goes on at {}", w.job, len(below), len(text))
    after, changes = w._replace(at=at, text=text, log=0, fence=0), {}
    held = w.seen.record
    if len(text) < held.said and not held.restarted:
        entry = note(s, w, scene, "restarted", True)
        if entry is None:
            yield Step(("worker {} is stale", w.job), s.put(i, Worker()))
            return
        after, changes = noted(after, entry, scene), {"record": entry}
    if w.buried and at == SPEAKING:
        after = after._replace(at=COMMITTING, failed=INTERNAL)
    yield Step(told, s.put(i, after, **changes))


def _fold(frames: list[Frame], w: Worker, scene: Scene) -> Text:
    assert w.seen is not None
    at = Position(reopened=w.seen.record.reopened if scene.rules.reopening_voids_the_failure else 0)
    text: Text = ()
    for frame in frames:
        at, verdict = product.fold(at, frame, scene.rules)
        if verdict in (Verdict.HOLE, Verdict.LOST):
            break
        if verdict is Verdict.SHOW:
            text += frame.words
    return text


def _speaking(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """The handler says a delta, is done, fails, or is stopped."""
    at = len(w.text)
    rest = scene.bounds.deltas - at
    frames = [w.frame] if w.frame else [_data(w, span) for span in range(1, min(rest, scene.bounds.widest) + 1)]
    for frame in frames:
        after = w._replace(text=w.text + frame.words, based=True, frame=None, aired=False)
        yield from _say(s, i, w, frame, after, scene)
    if w.frame:
        return
    if rest <= 0 or scene.bounds.brief:
        yield _apply(s, i, w, scene)
    elif s.budget.mutes:
        yield _fall_mute(s, i, w, frames[0], scene)
    if s.budget.failures:
        failed = w._replace(at=COMMITTING, failed=UNAVAILABLE)
        yield Step(("the handler of worker {} fails", w.job), s.put(i, failed, budget=s.spend("failures")), due=False)
    if w.seen and s.revision != w.seen.revision:
        yield Step(("worker {} is told to look at the record", w.job), s.put(i, w._replace(at=LOSING)), due=False)
    if s.budget.drains:
        stopped = s._replace(budget=s.spend("drains"))
        yield give_back(stopped, i, w, scene, "stops in good order")._replace(due=False)


def _fall_mute(s: State, i: int, w: Worker, frame: Frame, scene: Scene) -> Step:
    """The log does not answer any more: the call fails, and its end is not said."""
    unheard = 0 if scene.rules.count_is_of_what_is_stored else frame.span
    after = w._replace(at=COMMITTING, failed=UNAVAILABLE, mute=True, unheard=unheard)
    told = ("worker {} sends {}, hears nothing of it, and gives up", w.job, frame)
    return Step(told, s.put(i, after, network=(*s.network, frame), budget=s.spend("mutes")), due=False)


def _data(w: Worker, span: int) -> Frame:
    seq = len(w.text)
    return Frame(w.inbox, w.voice, w.epoch, seq, "data", span, None if w.based else seq, meant=w.text)


def _apply(s: State, i: int, w: Worker, scene: Scene) -> Step:
    """The effect, idempotent under the call id: another claim that applied it before has done this one's work."""
    key = 0 if scene.rules.effects_under_call_id else w.voice
    effects = s.effects if key in s.effects else (*s.effects, key)
    ends_first = not scene.rules.commit_then_end
    after = w._replace(at=ENDING, frame=_end(w, OK)) if ends_first else w._replace(at=COMMITTING)
    return Step(("the handler of worker {} is done; its effect is applied", w.job), s.put(i, after, effects=effects))


def _end(w: Worker, status: str) -> Frame:
    """The end that the worker of the call says itself."""
    count = len(w.text)
    base = None if w.based else count
    return Frame(w.inbox, w.voice, w.epoch, count, "end", base=base, status=status, total=count)


def _committing(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """Compare-and-set to DONE: this is the commit."""
    assert w.seen is not None
    if not write_allowed(s, w, scene):
        yield Step(("worker {} finds the record changed", w.job), s.put(i, w._replace(at=LOSING)))
        return
    left, count = () if w.buried else w.text, len(w.text) + w.unheard
    record = Entry(s.revision + 1, product.decided(w.seen.record, w.failed, count, left, w.epoch))
    after = w.on(ENDING, frame=_end(w, w.failed), left=left, order=record.revision)
    if w.mute or (w.failed == OK and not scene.rules.commit_then_end):
        after = w.on(_after_end(left, scene), left=left, order=record.revision)
    final = w.text if w.failed == OK else s.final
    told = ("worker {} commits: DONE({}, count {})", w.job, w.failed or "OK", count)
    yield Step(told, s.put(i, after, record=record, final=final))


def _losing(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """Not the call's worker any more: finish it if it is decided, otherwise be stale."""
    if s.record and s.record.record.state == DONE:
        yield Step(("worker {} finds the call decided", w.job), s.put(i, _finishing(s, w, scene)))
    else:
        yield Step(("worker {} is stale", w.job), s.put(i, Worker()))


def _giving_back(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    yield Step(("worker {} gives the job back", w.job), s.put(i, Worker()))


def _finishing(s: State, w: Worker, scene: Scene) -> Worker:
    """Whoever finds a decided call says its end again, with an epoch above every claim's, and runs the follow-up."""
    assert w.job is not None
    assert s.record is not None
    revision, record = s.record
    end = Frame(
        w.job.inbox,
        revision,
        revision,
        record.total,
        "end",
        base=record.total,
        status=record.status,
        total=record.total,
    )
    mine = (record.job_seq, record.delivery) == (w.job.sequence, w.job.delivery)
    left = record.follow_up or (w.text if mine or not scene.rules.last_claim_leaves_the_turn else ())
    return w.on(ENDING, frame=end, left=left, order=revision)


def _after_end(left: Text, scene: Scene) -> str:
    return FOLLOWING if left and scene.rules.follow_up_then_acknowledge else ACKING


def _ending(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    assert w.frame is not None
    if w.seen is not None:  # only without `commit_then_end`
        after = w._replace(at=COMMITTING, frame=None, aired=False)
    else:
        after = w.on(_after_end(w.left, scene), left=w.left, order=w.order)
    yield from _say(s, i, w, w.frame, after, scene)


def _following(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    """The session's turn: that of a later decision takes the place of that of an earlier one."""
    rules = scene.rules
    after = w.on(ACKING) if rules.follow_up_then_acknowledge else Worker()
    allowed = rules.later_turn_replaces if w.order > s.order else not rules.earlier_turn_does_not
    replaces = s.turn is None or allowed
    changes: dict[str, Any] = {"turn": w.left, "order": w.order} if replaces else {}
    told = ("worker {} {} the session's turn", w.job, "stores" if replaces else "finds")
    yield Step(told, s.put(i, after, **changes))


def _acking(s: State, i: int, w: Worker, scene: Scene) -> Iterator[Step]:
    held = w.held
    assert held is not None
    late = w.left and not scene.rules.follow_up_then_acknowledge
    after = w.on(FOLLOWING, left=w.left, order=w.order) if late else Worker()
    jobs = tuple(job for job in s.jobs if (job.queue, job.sequence) != (held.queue, held.sequence))
    yield Step(("worker {} acknowledges the job", w.job), s.put(i, after, jobs=jobs))


DOES: dict[str, Callable[[State, int, Worker, Scene], Iterator[Step]]] = {
    GIVEN: _given,
    CLAIMING: _claiming,
    FENCING: _fencing,
    FOLDING: _folding,
    SPEAKING: _speaking,
    COMMITTING: _committing,
    LOSING: _losing,
    GIVING_BACK: _giving_back,
    ENDING: _ending,
    FOLLOWING: _following,
    ACKING: _acking,
}
