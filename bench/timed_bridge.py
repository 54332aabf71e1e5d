"""A bridge that keeps the time of knowing who calls, for `bench.doors`: under load its caches are cold, as they are in no loop.

BENCH_TIMES names the file to which it writes, at its end, how often it asked and the µs that it took each time. The clock is
the wall's: what other processes took in between counts as well.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable
from pathlib import Path

import bridge.__main__
from bridge.doors import Doors, Visitor
from qingyu_ai.process import run

TIMES = "BENCH_TIMES"


class Spent:
    """What it took so far."""

    calls = 0
    nanoseconds = 0

    def write(self) -> None:
        """Tell the bench."""
        Path(os.environ[TIMES]).write_text(f"{self.calls} {self.nanoseconds / max(1, self.calls) / 1000}")


def keep_time(spent: Spent) -> None:
    """Have every question at the doors timed."""
    visitor = Doors.visitor

    async def timed(self: Doors, metadata: Iterable[tuple[str, str | bytes]] | None) -> Visitor:
        began = time.perf_counter_ns()
        found = await visitor(self, metadata)
        spent.nanoseconds += time.perf_counter_ns() - began
        spent.calls += 1
        return found

    Doors.visitor = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    spent = Spent()
    keep_time(spent)
    atexit.register(spent.write)
    run("bridge", bridge.__main__.main)
