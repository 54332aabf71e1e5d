"""Chat workers that die or freeze in the middle of their work, as callers see it."""

from __future__ import annotations

import time

import pytest

from tests.e2e.callers import COUNTING, FAST, LEASE, Call, Caller, all_whole, begun, lines, say
from tests.e2e.counting_worker import BEGINS, STOPS
from tests.process import Running
from tests.running import System
from tests.waiting import eventually_sync

TAKEN_OVER = "call_taken_over"

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]


def test_streams_of_a_killed_worker_go_on_when_it_is_started_again() -> None:
    """Each reader gets the whole text, without a gap or a repeat, and knows nothing of it but a silence."""
    with System(COUNTING, settings=FAST) as system, Caller(system.target) as caller:
        [worker] = system.workers
        streams = begun(caller.stream(deltas=200, per_second=40) for _ in range(10))
        silent = [caller.chat(deltas=5, silent_seconds=1.5) for _ in range(10)]
        eventually_sync(lambda: lines(worker, BEGINS) == 20)
        first = worker.pid
        worker.kill()
        worker.start()
        all_whole(streams)
        assert {stream.said_by for stream in streams} == {first}
        silence = max(stream.longest_silence for stream in streams)
        say(f"{len(streams)} streams went on after at most {silence:.2f} s of silence")
        # Of these nobody had heard anything, so they were run from their beginning.
        all_whole(silent)
        assert {chat.said_by for chat in silent} == {worker.pid}
        assert lines(worker, TAKEN_OVER) == 10


def test_streams_of_a_killed_worker_go_on_at_another_whose_own_are_not_disturbed() -> None:
    with System(COUNTING, COUNTING, settings=FAST) as system, Caller(system.target) as caller:
        dying, living = system.workers
        streams = begun(caller.stream(deltas=200, per_second=40) for _ in range(20))
        dying.kill()
        hit = [s for s in streams if s.said_by == dying.pid]
        others = [s for s in streams if s.said_by == living.pid]
        assert (len(hit) + len(others), bool(hit), bool(others)) == (20, True, True)
        all_whole(streams)
        silences = [max(s.longest_silence for s in group) for group in (hit, others)]
        say(
            f"{len(hit)} streams went on after {silences[0]:.2f} s at most; of {len(others)} others, {silences[1]:.3f} s"
        )
        assert silences[1] < LEASE
        assert lines(living, TAKEN_OVER) == len(hit)


@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside another"])
def test_frozen_worker_that_wakes_up_adds_nothing_to_the_calls_it_has_lost(beside: int) -> None:
    """Its streams go on, at another worker or at itself; what its old runs say later is shown to nobody, also not later.

    Those that were delivered to nobody else meanwhile it simply goes on with: nobody takes a call over from itself.
    """
    with System(*[COUNTING] * (1 + beside), settings=FAST) as system, Caller(system.target) as caller:
        frozen = system.workers[0]
        streams = begun(caller.stream(deltas=100, per_second=20) for _ in range(10 * (1 + beside)))
        hit = [s for s in streams if s.said_by == frozen.pid]
        assert hit
        frozen.pause()
        time.sleep(2 * LEASE)  # a fault of this length, not a wait for something
        frozen.resume()
        all_whole(streams)
        # When it has said all that it would have said:
        eventually_sync(lambda: lines(frozen, BEGINS) == lines(frozen, STOPS), timeout=20)
        all_whole([caller.again(s) for s in hit])
        assert lines(frozen, TAKEN_OVER) == 0
        assert sum(lines(worker, TAKEN_OVER) for worker in system.workers) <= len(hit)


def test_calls_of_a_worker_that_dies_before_it_said_anything_are_run_again_elsewhere() -> None:
    """Nobody has seen anything of them yet, so their callers need not know: each gets the whole answer of one run.

    The lease runs from the last beat, the job's wait for an acknowledgement from the last sign of progress: whichever is
    over first, the caller waits for the other worker.
    """
    times = {**FAST, "QINGYU_BUS__BEAT_SECONDS": "1", "QINGYU_BUS__IN_PROGRESS_SECONDS": "0.25"}
    with System(COUNTING, COUNTING, settings=times) as system, Caller(system.target) as caller:
        dying, living = system.workers
        calls: list[Call] = []
        for _ in range(10):
            time.sleep(0.1)  # so that no two calls beat at the same time
            calls += caller.stream(deltas=5, silent_seconds=2.5), caller.chat(deltas=5, silent_seconds=2.5)
        eventually_sync(lambda: len(begun_by(calls, dying)) + len(begun_by(calls, living)) == 20)
        hit = begun_by(calls, dying)
        killed_at = time.monotonic()
        dying.kill()
        assert hit
        assert not [call for call in calls if call.ended]
        all_whole(calls)
        assert {call.said_by for call in calls} == {living.pid}
        last = max(call.ended_at for call in hit) - killed_at
        say(f"{len(hit)} calls ran again; the last of them ended {last:.2f} s after the kill")


def begun_by(calls: list[Call], process: Running) -> list[Call]:
    """The calls that a worker has begun to run."""
    log = process.log
    return [call for call in calls if f'"request_id": "{call.request_id}", "event": "{BEGINS}"' in log]
