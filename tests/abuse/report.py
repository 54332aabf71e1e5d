"""What was tried, what came of it, and what is wrong with that."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from .calling import Answer, Attempt

MOST_SHOWN = 12


@dataclass
class Round:
    """One kind of abuse."""

    name: str
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By method: how often each code came."""
    wrong: list[str] = field(default_factory=list)

    def judge(self, attempt: Attempt, answer: Answer, canaries: dict[str, str]) -> None:
        """Count an answer, and note what must not be.

        Args:
            canaries: by what it is, a text that no answer here may hold.
        """
        method = attempt.route.method
        self.counts[method][answer.code] += 1
        what = f"{method}, {attempt.what}"
        if answer.code not in attempt.expected:
            self.wrong.append(f"{what}: {answer.code}, not one of {', '.join(sorted(attempt.expected))}")
        for name, canary in canaries.items():
            if canary.encode() in answer.said:
                self.wrong.append(f"{what}: the {name} leaked")

    def check(self, holds: object, otherwise: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.wrong.append(otherwise)

    @property
    def calls(self) -> int:
        """How many were made."""
        return sum(sum(codes.values()) for codes in self.counts.values())


def show(rounds: list[Round], console: Console | None = None) -> None:
    """Print a table of each round, and what is wrong."""
    out = console or Console(width=150)
    for one in rounds:
        codes = sorted({code for counts in one.counts.values() for code in counts})
        table = Table(title=f"{one.name}: {one.calls} calls, {len(one.wrong)} wrong", title_justify="left")
        for head in ("", *codes):
            table.add_column(head, justify="left" if not head else "right")
        for method, counts in one.counts.items():
            table.add_row(method, *(str(counts[code] or "") for code in codes))
        out.print(table)
        for finding in one.wrong[:MOST_SHOWN]:
            out.print(f"  wrong: {finding}", markup=False)
        if len(one.wrong) > MOST_SHOWN:
            out.print(f"  … and {len(one.wrong) - MOST_SHOWN} more")
