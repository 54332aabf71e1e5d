"""Runs rows of the fault suite, and prints a line for each: `python -m tests.faults worker-streams --dose 200 --seed 7`.

Without names it runs all of them. The exit status is 1 if something was wrong or late, or if a control did not turn red.
"""

from __future__ import annotations

import argparse
import sys
import time

from .report import Run, carried_out
from .rows import ROWS


def _row(name: str) -> str:
    if name not in ROWS:
        raise argparse.ArgumentTypeError(f"there is no row {name!r}; there are {', '.join(ROWS)}")
    return name


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(ROWS)}", type=_row)
    parser.add_argument("--dose", type=int, default=0, help="how many calls; 0: the row's own")
    parser.add_argument("--seed", type=int, default=0, help="0: a new one")
    parser.add_argument("--short", action="store_true", help="as in `make test`")
    parser.add_argument("--without", default="", help="remove one guard")
    parser.add_argument("--controls", action="store_true", help="run all negative controls instead")
    chosen = parser.parse_args()
    seed = chosen.seed or time.time_ns() % 100_000
    red: list[str] = []
    for name in chosen.rows or ROWS:
        row = ROWS[name]
        if chosen.controls:
            for control in row.controls:
                outcome = carried_out(row, Run(control.dose, seed, control.guard, short=True))
                if not any(control.red in wrong for wrong in outcome.wrong):
                    red.append(f"{name} does not see that {control.guard} is missing")
            continue
        short = chosen.short or bool(chosen.without)
        outcome = carried_out(row, Run(chosen.dose or (row.short if short else row.full), seed, chosen.without, short))
        if row.defect:
            known = f"known: {row.defect}" if outcome.wrong else "no longer so, which this row must say"
            sys.stdout.write(f"    {known}\n")
        if (outcome.wrong or outcome.late) if not row.defect else not outcome.wrong:
            red.append(name)
    sys.stdout.write(f"red: {', '.join(red)}\n" if red else "all as it should be\n")
    return int(bool(red))


if __name__ == "__main__":
    sys.exit(main())
