"""What must hold: after each step, and once nothing is left to be done."""

from __future__ import annotations

from qingyu_ai.bus.record import DONE, REOPENED

from .bounds import Scene
from .state import AWAY, DATA_LOSS, ENDED, GONE, OK, READING, SPEAKING, State, Text


def broken(before: State, after: State, scene: Scene) -> str | None:
    """Say which invariant a step breaks."""
    return (
        _record(before, after, scene)
        or _effects(before, after)
        or _readers(before, after, scene)
        or _take_over(before, after, scene)
    )


def _lost(s: State, scene: Scene) -> bool:
    """Whether the log was lost: then two readers may hold two texts, but only one of them may end well."""
    return s.budget.log_losses < scene.bounds.log_losses


def _refused(s: State, scene: Scene) -> bool:
    return s.budget.refusals < scene.bounds.refusals


def _queue_lost(s: State, scene: Scene) -> bool:
    return s.budget.queue_losses < scene.bounds.queue_losses


def _done(s: State) -> bool:
    return s.record is not None and s.record.record.state == DONE


def _stopped(s: State, scene: Scene) -> int:
    """How many workers died or were taken for dead; who is taken for dead may still claim, and be taken over from in turn."""
    spent, bounds = s.budget, scene.bounds
    return bounds.deaths - spent.deaths + 2 * (bounds.redeliveries - spent.redeliveries)


def _agree(a: Text, b: Text) -> bool:
    """Whether one goes on where the other stops."""
    n = min(len(a), len(b))
    return a[:n] == b[:n]


def _record(before: State, after: State, scene: Scene) -> str | None:
    if after.record is before.record or after.record is None:
        return None
    if after.record.record.deaths > _stopped(after, scene):
        return "more workers count as lost over the job than were"
    if before.record is None:
        return None
    if before.record.record.state == DONE and after.record.record.state != REOPENED:
        return "a decided call was decided or run again without having been reopened"
    if before.final is not None:
        return "a call that was completed was touched again"
    return None


def _effects(before: State, s: State) -> str | None:
    if s.order < before.order:
        return "the session's turn was replaced by that of an earlier decision"
    if len(s.effects) > 1:
        return "the effect was applied twice"
    if s.final is not None and not s.effects:
        return "the call was completed without its effect"
    return None


def _readers(before: State, after: State, scene: Scene) -> str | None:
    if after.readers is before.readers and after.final is before.final and after.turn is before.turn:
        return None
    lost = _lost(after, scene)
    for i, r in enumerate(after.readers):
        if r.at == AWAY:
            continue
        if r.end == DATA_LOSS and not lost and not _queue_lost(after, scene):
            return f"reader {i} ended DATA_LOSS, and the log was never lost"
        if r.at == ENDED and r.end == OK and r.text != after.final:
            return f"reader {i} ended OK with another text than the one that was committed"
        if len(r.text) > len(r.has) and not _agree(r.text, r.has):
            return f"reader {i} goes on with another text than its caller has"
        old = before.readers[i]
        if r.text != old.text and not _meant(before, r.text, old.text):
            return f"reader {i} shows words after another text than their worker meant"
        if r.at == ENDED and r.end == OK and not _agree(r.text, old.has):
            return f"reader {i} ended OK with another text than its caller has"
        if lost:
            continue
        if r.at == ENDED and old.at != ENDED and old.reopens and r.end not in (OK, GONE) and not _done(after):
            return f"reader {i} ended with the failure that was reopened before it joined"
        if after.final is not None and r.text != after.final[: len(r.text)]:
            return f"reader {i} has shown what is no part of the text that was committed"
        if after.turn is not None and not _agree(r.text, after.turn):
            return f"the session's turn and what reader {i} has shown differ"
        if any(not _agree(r.text, other.text) for other in after.readers[:i]):
            return f"reader {i} and another one have shown different texts"
        if r.text != old.text and not _before_fences(after, r.text[len(old.text) :]):
            return f"reader {i} has shown what a replaced worker said after the fence"
    return None


def _meant(s: State, text: Text, old: Text) -> bool:
    """Whether somebody said just these words after just this text."""
    new = text[len(old) :]
    return not new or any(frame.words == new and frame.meant == old for frame in (*s.log, *s.lost, *s.heard))


def _before_fences(s: State, words: Text) -> bool:
    """Whether no fence of a later claim is in the log before these words."""
    fence, held = 0, set(words)
    for frame in s.log:
        if frame.said == "fence":
            fence = max(fence, frame.voice)
        elif frame.voice >= fence:
            held.difference_update(frame.words)
    return not held or not s.log or not any(held.intersection(frame.words) for frame in s.log)


def _take_over(before: State, after: State, scene: Scene) -> str | None:
    """A worker that goes on goes on where every reader is, or will be."""
    if after.workers is before.workers or _lost(after, scene):
        return None
    for w in after.workers:
        if w.at != SPEAKING or w.based or w.seen is None or w.seen is not after.record or w in before.workers:
            continue
        if any(r.text != w.text[: len(r.text)] for r in after.readers):
            return "a worker goes on with another text than a reader has shown"
    return None


def unfinished(s: State, scene: Scene) -> str | None:
    """Say what is wrong with a state in which nothing is left to be done."""
    refused = _refused(s, scene)
    gone = _queue_lost(s, scene) or refused or s.budget.bridge_deaths < scene.bounds.bridge_deaths
    done = _done(s)
    if gone and not done and not s.jobs:
        if any(r.at == READING and r.queue not in (0, s.queue) for r in s.readers):
            return "a reader waits for a job that was lost with its queue"
        if refused and any(r.at == READING for r in s.readers):
            return "a reader waits for a job that its queue refused"
        return None  # who reads the call for another request waits for the deadline
    for i, r in enumerate(s.readers):
        if r.at not in (AWAY, ENDED):
            return f"reader {i} waits, and nobody will say anything any more"
    if not done:
        return "the call was never decided"
    if s.final is not None and not gone and (s.turn or ()) != s.final:
        return "the call was completed, and the session's turn is not what was said"
    if s.jobs:
        return "the job was never acknowledged"
    return None
