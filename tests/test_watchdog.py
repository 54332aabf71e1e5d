"""A process whose event loop hangs ends itself; one that is busy, or was frozen, does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from qingyu_ai.watchdog import EXIT_HUNG

PROGRAM = """
import asyncio, sys, time
from qingyu_ai.watchdog import Watchdog

async def main():
    watchdog = Watchdog(1.0)
    print("watched", flush=True)
    {work}
    watchdog.stop()

asyncio.run(main())
"""


def start(work: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "watched\n"
    return process


def test_loop_that_hangs_ends_its_process_and_shows_where() -> None:
    process = start("time.sleep(3600)")
    _, said = process.communicate(timeout=30)
    assert process.returncode == EXIT_HUNG
    assert "event_loop_hangs" in _ + said
    assert "in main" in said


@pytest.mark.parametrize(
    "work", ["await asyncio.sleep(3)", "for _ in range(6): time.sleep(0.4); await asyncio.sleep(0)"]
)
def test_loop_that_turns_is_left_alone(work: str) -> None:
    process = start(work)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_process_that_was_frozen_as_a_whole_is_left_alone() -> None:
    process = start("await asyncio.sleep(4)")
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)  # a fault of this length, longer than the loop may hang
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0
