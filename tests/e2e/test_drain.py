"""Processes that are told to stop while they have work, as callers see it."""

from __future__ import annotations

import time

import grpc
import pytest

from tests.e2e.callers import COUNTING, FAST, LEASE, Caller, all_whole, begun, ended, lines, say
from tests.e2e.counting_worker import BEGINS
from tests.running import System
from tests.waiting import EVERY_SECONDS, eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

ENDS_SECONDS = 3.0
"""How soon a process ends once its last call has."""

PATIENT = {**FAST, "QINGYU_CHAT__DRAIN_SECONDS": "15", "QINGYU_BRIDGE__DRAIN_SECONDS": "15"}


def test_worker_that_is_told_to_stop_finishes_its_streams_and_takes_no_new_ones() -> None:
    """Nobody notices, and the process ends as soon as its last stream has."""
    with System(COUNTING, COUNTING, settings=PATIENT) as system, Caller(system.target) as caller:
        leaving, staying = system.workers
        streams = begun(caller.stream(deltas=100, per_second=40) for _ in range(20))
        its_own = [stream for stream in streams if stream.said_by == leaving.pid]
        assert 0 < len(its_own) < 20
        leaving.terminate()
        eventually_sync(lambda: leaving.said('"worker_drains"'))
        during = [caller.stream(deltas=40, per_second=40) for _ in range(10)]
        all_whole([*streams, *during])
        assert leaving.wait() == 0
        assert time.monotonic() - max(stream.ended_at for stream in its_own) < ENDS_SECONDS
        # A job that had been sent to it before it could say no may still have been its own.
        assert staying.pid in {stream.said_by for stream in during}
        again = [caller.stream(deltas=3) for _ in range(10)]
        all_whole(again)
        assert {stream.said_by for stream in again} == {staying.pid}


def test_streams_that_outlast_the_drain_of_their_worker_go_on_at_another() -> None:
    """At once: they are given back, not found missing. A call of which nothing was said yet is run from the start."""
    settings = {**FAST, "QINGYU_CHAT__DRAIN_SECONDS": "1"}
    with System(COUNTING, COUNTING, settings=settings) as system, Caller(system.target) as caller:
        leaving, staying = system.workers
        streams = begun(caller.stream(deltas=160, per_second=40) for _ in range(20))
        too_long = [stream for stream in streams if stream.said_by == leaving.pid]
        silent = [caller.chat(deltas=3, silent_seconds=2) for _ in range(20)]
        eventually_sync(lambda: lines(leaving, BEGINS) + lines(staying, BEGINS) == 40)
        given_back = [chat for chat in silent if lines(leaving, BEGINS, chat.request_id)]
        assert too_long
        assert given_back
        leaving.terminate()
        assert leaving.wait() == 0
        all_whole(too_long)
        assert max(stream.longest_silence for stream in too_long) < LEASE
        all_whole(silent)
        assert {chat.said_by for chat in silent} == {staying.pid}
        assert [lines(staying, BEGINS, chat.request_id) for chat in given_back] == [1] * len(given_back)
        all_whole(stream for stream in streams if stream not in too_long)


def test_bridge_that_is_told_to_stop_finishes_its_streams_while_new_calls_go_to_another() -> None:
    """A caller that knows both addresses does not notice, whatever it calls and whenever."""
    with System(COUNTING, bridges=2, settings=PATIENT) as system:
        leaving, staying = system.bridges
        both = f"ipv4:{leaving.target},{staying.target}"
        with Caller(leaving.target) as caller, Caller(both, [("grpc.lb_policy_name", "round_robin")]) as of_both:
            streams = begun(caller.stream(deltas=100, per_second=40) for _ in range(10))
            chats = [caller.chat(deltas=3, silent_seconds=2) for _ in range(10)]
            all_whole(of_both.chat() for _ in range(4))
            leaving.terminate()
            during = []
            while leaving.alive:
                time.sleep(EVERY_SECONDS)
                during.append(of_both.chat())
                during[-1].wait()
            ended_at = time.monotonic()
            all_whole([*streams, *chats, *during])
            say(f"{len(during)} calls were made while the bridge drained")
            assert leaving.wait() == 0
            assert ended_at - max(stream.ended_at for stream in streams) < ENDS_SECONDS

            refused = caller.chat()
            refused.wait()
            assert refused.failure is not None
            assert refused.failure.code is grpc.StatusCode.UNAVAILABLE
            all_whole(of_both.chat() for _ in range(4))


def test_streams_that_outlast_the_drain_of_their_bridge_run_on_under_the_same_request_id() -> None:
    """It is the bridge that sends the caller away, so their jobs are not cancelled."""
    settings = {**FAST, "QINGYU_BRIDGE__DRAIN_SECONDS": "1"}
    with (
        System(COUNTING, bridges=2, settings=settings) as system,
        Caller(system.bridges[0].target) as caller,
        Caller(system.bridges[1].target) as other,
    ):
        [worker] = system.workers
        streams = begun(caller.stream(deltas=100, per_second=40) for _ in range(10))
        system.bridges[0].terminate()
        assert system.bridges[0].wait() == 0
        ended(streams)
        for stream in streams:
            assert stream.failure is not None, stream
            assert stream.finals == 0, stream
            assert stream.right_text.startswith(stream.text), stream
        assert {s.failure.code if s.failure else None for s in streams} == {grpc.StatusCode.UNAVAILABLE}
        all_whole(other.again(stream) for stream in streams)
        assert lines(worker, BEGINS) == 10
