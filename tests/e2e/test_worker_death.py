"""Chat workers that die or freeze in the middle of their work, as callers see it."""

from __future__ import annotations

import time

import pytest

from tests.e2e.callers import COUNTING, FAST, LEASE, Call, Caller, all_lost, all_whole, begun, lines, say
from tests.e2e.counting_worker import BEGINS, STOPS
from tests.running import Running, System
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]


def test_streams_of_a_killed_worker_end_within_the_lease_with_a_status_and_a_hint() -> None:
    """What was received is the beginning of the right text, no chunk is final, and nobody waits for the deadline.

    Calls of which nothing was said yet wait a little longer: when the worker is started again, as a supervisor does, they
    are whole.
    """
    with System(COUNTING, settings=FAST) as system, Caller(system.target) as caller:
        [worker] = system.workers
        streams = begun(caller.stream(deltas=400, per_second=40) for _ in range(10))
        silent = [caller.chat(deltas=5, silent_seconds=1.5) for _ in range(10)]
        eventually_sync(lambda: lines(worker, BEGINS) == 20)
        killed_at = time.monotonic()
        worker.kill()
        all_lost(streams, since=killed_at)
        assert not [s for s in streams if s.failure is None or s.failure.retry_seconds is None]

        worker.start()
        system.wait_ready()
        # The same without the kill:
        all_whole(caller.stream(deltas=20, per_second=40) for _ in range(10))
        all_whole(silent)
        assert {chat.said_by for chat in silent} == {worker.pid}


def test_streams_of_other_workers_are_not_disturbed_when_one_is_killed() -> None:
    """A dead worker's streams are lost also while another could take them, because their text cannot be continued."""
    with System(COUNTING, COUNTING, settings=FAST) as system, Caller(system.target) as caller:
        dying, living = system.workers
        streams = begun(caller.stream(deltas=130, per_second=40) for _ in range(20))
        killed_at = time.monotonic()
        dying.kill()
        lost = [s for s in streams if s.said_by == dying.pid]
        others = [s for s in streams if s.said_by == living.pid]
        assert (len(lost) + len(others), bool(lost), bool(others)) == (20, True, True)
        all_lost(lost, killed_at)
        assert not [s for s in lost if s.failure is None or s.failure.retry_seconds is None]
        all_whole(others)
        silence = max(s.longest_silence for s in others)
        say(f"{len(lost)} streams lost, {len(others)} not; the longest silence of those: {silence:.3f} s")
        assert silence < LEASE


@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside another"])
def test_frozen_worker_that_wakes_up_adds_nothing_to_the_calls_it_has_lost(beside: int) -> None:
    """Its streams end within the lease; the same ids get the same failure for good; new calls are served as ever."""
    with System(*[COUNTING] * (1 + beside), settings=FAST) as system, Caller(system.target) as caller:
        frozen = system.workers[0]
        streams = begun(caller.stream(deltas=100, per_second=20) for _ in range(10 * (1 + beside)))
        lost = [s for s in streams if s.said_by == frozen.pid]
        assert lost
        frozen.pause()
        all_lost(lost, since=time.monotonic())
        assert not [s for s in lost if s.failure is None or s.failure.retry_seconds is None]

        frozen.resume()
        at_once = [caller.again(s) for s in lost]
        all_lost(at_once, since=time.monotonic())
        system.wait_ready()
        all_whole(caller.stream(deltas=20, per_second=40) for _ in range(10))
        all_whole(s for s in streams if s not in lost)

        # When it has said all that it would have said:
        eventually_sync(lambda: lines(frozen, BEGINS) == lines(frozen, STOPS), timeout=20)
        for later in [caller.again(s) for s in lost]:
            later.wait()
            assert later.failure is not None, later
            assert later.failure.code.name == "UNAVAILABLE", later
            assert (later.text, later.finals) == ("", 0)
        assert sum(lines(w, BEGINS, s.request_id) for w in system.workers for s in lost) == len(lost)


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
