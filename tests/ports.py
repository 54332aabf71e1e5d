"""Ports for the tests' processes. Between the moment a port is chosen and the moment a process listens on it lies a second, and
in that second nobody else must get it: so they come from below the range that the kernel gives out by itself, and each process
that runs tests has a stretch of its own among all of this machine, held by a locked file for as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qingyu_ai.cli.preflight import hold

FIRST, LAST = 11_000, 32_000
STRETCH = 500
STEP = 4
"""`up` gives each process of a kind the next port after its first one's."""

LOCKS = Path(tempfile.gettempdir()) / "qingyu-test-ports"


def _stretch() -> Iterator[int]:
    LOCKS.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # it is another user's, who has opened it
        LOCKS.chmod(0o777)
    for first in range(FIRST, LAST, STRETCH):
        # The kernel lets go of it when this process ends, however it ends; to lock a file, another user's may be read only.
        held = os.open(LOCKS / str(first), os.O_RDONLY | os.O_CREAT, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            continue
        yield from itertools.cycle(range(first, first + STRETCH, STEP))
    raise RuntimeError(f"all stretches of ports are taken: more processes run tests here than {LOCKS} has files")


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
