"""Callers that stop reading beside callers that do not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

import pytest

from bench.processes import resident_bytes
from tests.e2e.callers import COUNTING, FAST, Caller, all_whole, begun, lines, say
from tests.e2e.counting_worker import STOPS
from tests.running import System
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

MIB = 1024 * 1024

SLOW, DELTAS, PADDING = 20, 450, 2700
"""Twenty streams of 3.5 MiB each, in deltas of 8 KiB: more than the bridge may hold, less than a call may say."""

TOTAL = SLOW * DELTAS * PADDING * len("字".encode())

BOUND = 32 * MIB
"""What the bridge's memory may grow by."""

WINDOW = {"QINGYU_BUS__WINDOW_FRAMES": "256", "QINGYU_BUS__WINDOW_BYTES": str(256 * 1024)}
"""The defaults, which the worker has in any case."""

SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024))
"""Otherwise the client's library takes megabytes that its caller does not read, and the bridge never notices."""


def test_readers_that_stop_cost_little_memory_disturb_nobody_and_get_everything_when_they_go_on() -> None:
    """The bridge holds a window of each and reads the rest again from the log."""
    assert growth_beside_slow_readers(FAST) < BOUND


def test_without_windows_the_bridge_would_hold_it_all() -> None:
    """The control: what the test above measures does show memory that is held."""
    wide = dict.fromkeys(WINDOW, "1000000000")
    assert growth_beside_slow_readers({**FAST, **wide}) > BOUND


def growth_beside_slow_readers(settings: Mapping[str, str]) -> int:
    """Run ten streams alone, then beside readers that have stopped, then let those go on.

    Returns:
        The bytes by which the bridge's memory grew, at most.
    """
    with System(replace(COUNTING, env=WINDOW), settings=settings) as system, ExitStack() as stack:
        bridge, worker = system.bridges[0], system.workers[0]
        normal, *slow = (stack.enter_context(Caller(bridge.target, SMALL_WINDOW)) for _ in range(1 + SLOW))
        alone = ten_streams(normal)
        before = highest = resident_bytes(bridge.pid)

        def watch() -> None:
            nonlocal highest
            highest = max(highest, resident_bytes(bridge.pid))

        stopped = begun(c.stream(deltas=DELTAS, padding=PADDING, timeout=120, stops=True) for c in slow)
        watch()
        beside = ten_streams(normal)

        def all_is_said() -> bool:
            watch()
            return lines(worker, STOPS) == 10 + SLOW + 10

        # A worker that hears no credit goes on after a lease.
        eventually_sync(all_is_said, timeout=30)
        assert not [stream for stream in stopped if stream.ended or len(stream.arrivals) > 1]
        for stream in stopped:
            stream.go_on()
        all_whole(stopped)
        watch()
        growth = highest - before
        say(
            f"ten streams took {alone:.2f} s alone and {beside:.2f} s beside {SLOW} slow readers; "
            f"the bridge grew by {growth / MIB:.1f} MiB, of {TOTAL / MIB:.0f} MiB that they left waiting"
        )
        assert beside < alone + 5
        return growth


def ten_streams(caller: Caller) -> float:
    """Read ten paced streams, whole.

    Returns:
        How long that took, in seconds.
    """
    began = time.monotonic()
    all_whole([caller.stream(deltas=40, per_second=40) for _ in range(10)])
    return time.monotonic() - began
