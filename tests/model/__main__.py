"""`make model`: explores the large configurations and shows what each rule is for.

python -m tests.model                            everything
python -m tests.model --small                    what `make test` explores, and the rules
python -m tests.model --rule fence-then-fold     without this rule: a shortest way into trouble, step by step
"""

from __future__ import annotations

import argparse
import resource
import sys

from . import stories
from .bounds import Bounds, Scene
from .configurations import LARGE, MISSED, SLOW, SMALL, without
from .explorer import Result, explore
from .rules import NAMES

WIDTH = max(map(len, (*SMALL, *LARGE, *NAMES)))


def main() -> int:
    """Return a status: 1 if an invariant does not hold, or a rule is not missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--small", action="store_true", help="leave the large configurations out")
    parser.add_argument("--rule", choices=NAMES, action="append", help="switch this rule off; may be given again")
    parser.add_argument("--stories", action="store_true", help="find anew what `make test` only follows")
    asked = parser.parse_args()
    if asked.stories:
        return _stories()
    if asked.rule:
        return _without(asked.rule)
    wrong = _configurations(SMALL if asked.small else {**SMALL, **LARGE})
    return max(wrong, _rules())


def _without(names: list[str]) -> int:
    rules = without(names[0])
    for name in names[1:]:
        rules = rules.without(name)
    result = explore(Scene(MISSED[names[0]], rules))
    print(f"Without {', '.join(names)}; {MISSED[names[0]]}:\n")
    print("  0 bridge 0 has stored the job and listens")
    print(result.violation or "nothing goes wrong")
    return 0 if result.violation else 1


def _stories() -> int:
    found = {rule: explore(Scene(MISSED[rule], without(rule))).violation for rule in SLOW}
    stories.write({rule: violation.trace for rule, violation in found.items() if violation})
    return 0 if all(found.values()) else 1


def _configurations(which: dict[str, Bounds]) -> int:
    wrong = 0
    print(f"{'all rules':{WIDTH}} {'states':>10} {'transitions':>12} {'depth':>6} {'seconds':>8}")
    for name, bounds in which.items():
        result = explore(Scene(bounds))
        print(f"{name:{WIDTH}} {result.states:>10,} {result.transitions:>12,} {result.depth:>6} {result.seconds:>8.1f}")
        sys.stdout.flush()
        if result.violation:
            print(result.violation)
            wrong = 1
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MiB of memory\n")
    return wrong


def _rules() -> int:
    wrong = 0
    print(f"{'without the rule':{WIDTH}} {'steps':>6} {'seconds':>8}  what goes wrong")
    for name in NAMES:
        result: Result = explore(Scene(MISSED[name], without(name)))
        found = result.violation
        steps, what = (len(found.trace), found.what) if found else (0, "NOTHING")
        print(f"{name:{WIDTH}} {steps:>6} {result.seconds:>8.1f}  {what}")
        wrong = wrong if found else 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
