"""The search: breadth first over all states, so that the first counterexample is a shortest one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import broker, invariants, joining, reading, silence, worker
from .bounds import Scene
from .state import ENDED, State, Step, beginning


@dataclass(slots=True)
class Violation:
    """An invariant that does not hold, and a shortest way there."""

    what: str
    trace: list[Step]

    def __str__(self) -> str:
        lines = [f"{n:3} {step}" for n, step in enumerate(self.trace, 1)]
        return "\n".join([*lines, f"    -> {self.what}"])


@dataclass(slots=True)
class Result:
    """What an exploration found."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    """Of the processor."""
    complete: bool = True
    """Whether it saw all states within the bounds, or was stopped by a limit or a violation."""
    violation: Violation | None = None
    ends: Counter[str] = field(default_factory=Counter)
    """How the call may end: (readers' ends, how many claims the text is of), of states with nothing left to do."""


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield everything that may happen next."""
    yield from broker.steps(s, scene)
    yield from worker.steps(s, scene)
    yield from joining.steps(s, scene)
    yield from reading.steps(s, scene)
    yield from silence.steps(s, scene)


def explore(scene: Scene, limit: int = 0) -> Result:
    """See every state within the bounds, until an invariant does not hold.

    Args:
        limit: of states; 0: none.
    """
    began = time.process_time()
    first = beginning(scene.bounds)
    # A state is remembered by its hash alone. Two of some millions share one of 2^61 with a chance of 1 in 100,000.
    parents: dict[int, int] = {hash(first): 0}
    result = Result()
    level = [first]
    while level and result.violation is None and result.complete:
        following: list[State] = []
        for s in level:
            here = hash(s)
            quiet = True
            wrong = None
            for step in steps(s, scene):
                result.transitions += 1
                quiet = quiet and not step.due
                there = hash(step.after)
                wrong = invariants.broken(s, step.after, scene)
                if wrong:
                    result.violation = Violation(wrong, [*_way(first, here, parents, scene), step])
                    break
                if there not in parents:
                    parents[there] = here
                    following.append(step.after)
            if wrong:
                break
            if quiet:
                wrong = invariants.unfinished(s, scene)
                if wrong:
                    result.violation = Violation(wrong, _way(first, here, parents, scene))
                    break
                result.ends[_ending(s)] += 1
        result.depth += 1
        result.complete = not limit or len(parents) < limit
        level = following
    result.complete = result.complete and result.violation is None
    result.states = len(parents)
    result.seconds = time.process_time() - began
    return result


def _way(first: State, last: int, parents: dict[int, int], scene: Scene) -> list[Step]:
    """The steps to a state: its hash and its parents' are known, so each step is the one that leads to the next."""
    hashes = [last]
    while parents[hashes[-1]]:
        hashes.append(parents[hashes[-1]])
    trace: list[Step] = []
    s = first
    for wanted in hashes[-2::-1]:
        step = next(step for step in steps(s, scene) if hash(step.after) == wanted)
        trace.append(step)
        s = step.after
    return trace


def _ending(s: State) -> str:
    ends = " ".join(r.end or "OK" for r in s.readers if r.at == ENDED)
    claims = len({voice for voice, _ in s.final}) if s.final is not None else 0
    reopened = s.record is not None and s.record.record.reopenings > 0
    return f"{ends or '-'}; text of {claims} claims{', reopened' if reopened else ''}"
