"""Abuses a system in all the ways that there are here, and prints what came of it: `python -m tests.abuse`.

The exit status is 1 if anything leaked, broke, or ended otherwise than it should.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .report import Round, show
from .rig import open_rig
from .rounds import RoundOf, anothers_ids, breaking_out, closed_projects, forged_tokens

ALL = (forged_tokens, anothers_ids, closed_projects, breaking_out)


async def abused(every: int = 1, hole: str = "", rounds: Sequence[RoundOf] = ALL) -> list[Round]:
    """Run rounds on a fresh system.

    Args:
        every: one attempt of so many of each of the large rounds.
        hole: one of `holes.HOLES`: what must turn them red.
        rounds: which, in this order.
    """
    with tempfile.TemporaryDirectory(prefix="qingyu-abuse-") as folder:
        async with open_rig(Path(folder), hole) as rig:
            return [await one(rig, every) for one in rounds]


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="make one of so many attempts")
    parser.add_argument("--hole", default="", help="with a hole in the bridge: signature, owner or projects")
    chosen = parser.parse_args()
    rounds = asyncio.run(abused(chosen.every, chosen.hole))
    show(rounds)
    wrong = sum(len(one.wrong) for one in rounds)
    sys.stdout.write(f"{sum(one.calls for one in rounds)} calls, {wrong} wrong\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
