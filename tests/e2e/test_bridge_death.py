"""Bridges that die, and bridges that share a port, as callers see it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.e2e.callers import COUNTING, FAST, LEASE, Caller, all_whole, begun, ended, lines, say
from tests.e2e.counting_worker import BEGINS
from tests.ports import free_port
from tests.process import RunningBridge
from tests.running import System
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("bridge faults")]


def test_streams_of_a_killed_bridge_are_whole_at_another_bridge_under_the_same_request_id() -> None:
    """Their jobs run on, once; the other bridge shows them from the start, and lets the worker go on beyond its window."""
    with (
        System(COUNTING, bridges=2, settings=FAST) as system,
        Caller(system.bridges[0].target) as caller,
        Caller(system.bridges[1].target) as other,
    ):
        [worker] = system.workers
        streams = begun(caller.stream(deltas=300, per_second=80) for _ in range(10))
        undisturbed = begun(other.stream(deltas=200, per_second=80) for _ in range(10))
        killed_at = time.monotonic()
        system.bridges[0].kill()
        ended(streams)
        for stream in streams:
            assert stream.failure is not None, stream
            assert stream.failure.code is grpc.StatusCode.UNAVAILABLE, stream
            assert stream.finals == 0, stream
            assert stream.right_text.startswith(stream.text), stream
        noticed = max(stream.ended_at for stream in streams) - killed_at
        say(f"callers knew within {noticed * 1000:.0f} ms")
        assert noticed < LEASE

        again = [other.again(stream) for stream in streams]
        all_whole(again)
        assert {stream.said_by for stream in again} == {worker.pid}
        all_whole(undisturbed)
        silence = max(stream.longest_silence for stream in undisturbed)
        assert silence < LEASE, "streams of the other bridge were held up"
        # Now that they are finished:
        all_whole(other.again(stream) for stream in streams)
        assert [lines(worker, BEGINS, stream.request_id) for stream in streams] == [1] * 10


def test_unary_call_of_a_killed_bridge_is_answered_by_another_under_the_same_request_id() -> None:
    """Asked again while it runs, and again when it is done: one run, one answer."""
    with (
        System(COUNTING, bridges=2, settings=FAST) as system,
        Caller(system.bridges[0].target) as caller,
        Caller(system.bridges[1].target) as other,
    ):
        [worker] = system.workers
        chats = [caller.chat(deltas=5, silent_seconds=1.5) for _ in range(10)]
        eventually_sync(lambda: lines(worker, BEGINS) == 10)
        system.bridges[0].kill()
        ended(chats)
        assert {c.failure.code if c.failure else None for c in chats} == {grpc.StatusCode.UNAVAILABLE}
        for _ in "running", "done":
            again = [other.chat(request_id=c.request_id, deltas=5, silent_seconds=1.5) for c in chats]
            all_whole(again)
        assert lines(worker, BEGINS) == 10


def test_bridges_on_one_port_share_the_callers_and_one_goes_on_when_the_other_is_killed(tmp_path: Path) -> None:
    """As `up` starts them. Nobody chooses where a connection goes, so many connections reach both."""
    with System(COUNTING, bridges=0, settings=FAST) as system, sharing(2, system.env, tmp_path) as bridges:
        first, second = bridges
        with ExitStack() as stack:
            callers = [stack.enter_context(Caller(first.target)) for _ in range(32)]
            all_whole(caller.chat(deltas=3) for caller in callers)
            share = [served(bridge) for bridge in bridges]
            say(f"of 32 connections, {share[0]:.0f} and {share[1]:.0f} went to the two bridges")
            assert sum(share) == 32
            assert min(share) > 0

            streams = begun(caller.stream(deltas=80, per_second=40) for caller in callers)
            first.kill()
            ended(streams)
            lost = [stream for stream in streams if not stream.whole]
            assert len(lost) == share[0]
            assert {s.failure.code if s.failure else None for s in lost} == {grpc.StatusCode.UNAVAILABLE}
            # The same channels, at once: those of the dead bridge connect anew, and find the living one.
            all_whole(caller.again(stream) for caller, stream in zip(callers, streams, strict=True))
            assert served(second) == share[1] + (32 - share[0]) + 32

        first.start()
        eventually_sync(lambda: not first.unready, timeout=20)
        with ExitStack() as stack:
            all_whole(stack.enter_context(Caller(first.target)).chat(deltas=3) for _ in range(32))
        assert served(first) > 0


class SharingBridge(RunningBridge):
    """A bridge process that shares its port."""

    def __init__(self, name: str, env: Mapping[str, str], folder: Path, port: int) -> None:
        super().__init__(name, env, folder)
        self.port = port
        self._env["QINGYU_BRIDGE__PORT"] = str(port)


@contextmanager
def sharing(processes: int, env: Mapping[str, str], folder: Path) -> Iterator[list[SharingBridge]]:
    """Run bridges that share one port, with the settings that `up` gives them."""
    env, port = {**env, "QINGYU_BRIDGE__PROCESSES": str(processes)}, free_port()
    bridges = [SharingBridge(f"bridge-{i + 1}", env, folder, port) for i in range(processes)]
    try:
        for bridge in bridges:
            bridge.start()
        for bridge in bridges:
            eventually_sync(lambda b=bridge: not b.unready, timeout=20)  # type: ignore[misc]
        yield bridges
        for bridge in bridges:
            bridge.terminate()
        assert [bridge.wait() for bridge in bridges] == [0] * processes
    except BaseException:
        say("\n".join(bridge.tail for bridge in bridges))
        raise
    finally:
        for bridge in bridges:
            if bridge.alive:
                bridge.kill()


def served(bridge: RunningBridge) -> float:
    """How many calls a bridge has finished."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{bridge.metrics_port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    counts = [line for line in metrics.splitlines() if line.startswith("qingyu_bridge_calls_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counts)
