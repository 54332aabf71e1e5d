"""Ports for the tests' processes. Between the moment a port is chosen and the moment a process listens on it lies a second, and
in that second nobody else must get it: so they come from below the range that the kernel gives out by itself, and each run and
each of its parallel workers has a stretch of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from qingyu_ai.cli.preflight import hold

FIRST, LAST = 11_000, 32_000
STRETCH = 1_000
STEP = 4
"""`up` gives each process of a kind the next port after its first one's."""


def _stretch() -> Iterator[int]:
    stretches = (LAST - FIRST) // STRETCH
    worker = int("".join(c for c in os.environ.get("PYTEST_XDIST_WORKER", "0") if c.isdigit()))
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    first = FIRST + (run * 7 + worker) % stretches * STRETCH
    return itertools.cycle(range(first, first + STRETCH, STEP))


_ports = _stretch()


def free_port(host: str = "127.0.0.1") -> int:
    """Choose a port that nobody listens on, and that no other test is given."""
    for port in itertools.islice(_ports, STRETCH // STEP):
        try:
            hold(host, port).close()
        except OSError:
            continue
        return port
    raise RuntimeError(f"all of {STRETCH // STEP} ports are taken")


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Choose several."""
    return [free_port(host) for _ in range(count)]
