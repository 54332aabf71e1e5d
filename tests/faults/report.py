"""What a row of faults is given, and what it gives back: counts, times, and what was wrong."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.process import SystemBroken

MOST_SHOWN = 8
"""Findings of a row that are printed."""

WIDTH = 160
"""Characters of each."""


@dataclass(frozen=True)
class Run:
    """How a row is to be run."""

    dose: int
    """How many of what the row counts: streams, jobs, calls."""
    seed: int
    """Decides everything that chance decides."""
    without: str = ""
    """The guard that is removed (`guards`); empty: none, and nothing may be wrong."""
    short: bool = False
    """As part of `make test`: smaller waits beside the smaller dose."""

    @property
    def random(self) -> random.Random:
        """A new source of chance, alike for one seed."""
        return random.Random(self.seed)


@dataclass
class Outcome:
    """What a row found."""

    counts: dict[str, float] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    """Seconds."""
    wrong: list[str] = field(default_factory=list)
    """What must not be, under any load."""
    late: list[str] = field(default_factory=list)
    """Times above their limits. A machine that is busy with other tests is no judge of them."""

    def check(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.wrong.append(otherwise)

    def expect(self, name: str, count: float, expected: float) -> None:
        """Count something, of which there must be so many."""
        self.counts[name] = count
        self.check(count == expected, f"{name}: {count:g}, not {expected:g}")

    def time(self, name: str, seconds: Iterable[float], at_most: float | None = None, part: float = 1.0) -> None:
        """Note a time, and judge it.

        Args:
            seconds: all that were measured.
            at_most: the limit; None: there is none.
            part: which of them is noted: 1.0 the largest, 0.99 the p99.
        """
        found = percentile(list(seconds), part)
        self.times[name] = found
        if at_most is not None and found > at_most:
            self.late.append(f"{name}: {found * 1000:.0f} ms, at most {at_most * 1000:.0f} allowed")


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part of them lies; 0: there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True)
class Control:
    """A guard of the product, and how a row shows that it is missing."""

    guard: str
    """Its name in `guards`."""
    red: str
    """What one of the findings must contain."""
    dose: int
    """Small: one fault is enough to see it."""
    in_test: bool = False
    """Whether `make test` runs it, too; `make faults CONTROLS=1` runs all."""


@dataclass(frozen=True)
class Row:
    """One kind of fault."""

    name: str
    says: str
    """What must hold, in one line."""
    full: int
    short: int
    """The doses; 0 as the short one: the row has no short form."""
    run: Callable[[Run, Outcome], None]
    controls: tuple[Control, ...] = ()
    defect: str = ""
    """Why it is red for now, in one line; empty: it is not. A test that must fail until that is mended."""


def told(row: str, run: Run, outcome: Outcome, seconds: float) -> str:
    """One line of the table, and the first findings below it."""
    verdict = "RED" if outcome.wrong else "LATE" if outcome.late else "ok"
    cells = [
        f"{row:<15}",
        f"{'without ' + run.without if run.without else 'dose ' + str(run.dose):<20}",
        f"seed {run.seed}",
        f"{seconds:5.0f} s",
        verdict,
        _listed(outcome.counts, lambda count: f"{count:g}"),
        _listed(outcome.times, lambda t: f"{t * 1000:.0f} ms"),
    ]
    findings = [*outcome.wrong, *outcome.late]
    lines = [f"    {finding[:WIDTH]}" for finding in findings[:MOST_SHOWN]]
    if len(findings) > MOST_SHOWN:
        lines.append(f"    and {len(findings) - MOST_SHOWN} more")
    return "\n".join([" | ".join(cells), *lines])


def _listed(values: Mapping[str, float], shown: Callable[[float], str]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items())


def carried_out(row: Row, run: Run) -> Outcome:
    """Run a row, and print its line."""
    outcome, began = Outcome(), time.monotonic()
    try:
        row.run(run, outcome)
    except (AssertionError, SystemBroken) as e:
        outcome.wrong.append(str(e))  # what was found until then is told, too
    sys.stdout.write(told(row.name, run, outcome, time.monotonic() - began) + "\n")
    sys.stdout.flush()
    return outcome
