"""Whoever runs tests at the same time on one machine gets other ports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ports import free_ports

ROOT = Path(__file__).resolve().parent.parent

ASKS = "import sys; from tests.ports import free_ports; print(*free_ports(20), flush=True); sys.stdin.read()"


@contextmanager
def another(worker: str) -> Iterator[set[int]]:
    """Another process that runs tests, as this worker of a run of its own; the ports that it is given."""
    with subprocess.Popen(
        [sys.executable, "-c", ASKS],
        cwd=ROOT,
        env={**os.environ, "PYTEST_XDIST_WORKER": worker},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield set(map(int, process.stdout.readline().split()))
        process.kill()


def test_processes_that_run_tests_at_the_same_time_get_no_port_twice() -> None:
    with ExitStack() as stack:
        given = [stack.enter_context(another("gw0")) for _ in range(4)]
        given.append(set(free_ports(20)))
        assert [len(one) for one in given] == [20] * 5
        assert len(set.union(*given)) == 100
