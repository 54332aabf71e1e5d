"""Processes of the release before, which spoke version 1 of the bus protocol, beside those of this one.

The old code is taken from the repository's own history; a clone without it leaves these tests out, by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import grpc
import pytest

from tests.e2e.callers import COUNTING, FAST, Caller, Stream, all_whole, begun, ended
from tests.nats_guarded import GUARDED
from tests.process import RunningBridge
from tests.running import ROOT, System, Worker

VERSION_1 = "604ea6a4aa590ff159fdfa3d863795025951045d"
"""The last commit that spoke it."""

pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("versions"),
    pytest.mark.skipif(GUARDED, reason="the release before knows no users of NATS"),
]

SETTINGS = {name: value for name, value in FAST.items() if "PATIENCE" not in name}
"""Those that the release before knows too."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the release before."""
    command = ["git", "archive", "--format=tar", VERSION_1]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("this clone does not have the history of the release before")
    folder = tmp_path_factory.mktemp("version-1")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as tree:
        tree.extractall(folder, filter="data")
    said = subprocess.run(
        [sys.executable, "-c", "from qingyu_ai.bus import headers; print(headers.PROTOCOL)"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "1\n", "this would test the new release beside itself"
    return folder


def of_old(folder: Path) -> Worker:
    """The counting worker as the release before has it."""
    return Worker("tests.e2e.counting_worker", "chat", {"PYTHONPATH": str(folder)})


def test_old_worker_serves_a_new_bridge(old: Path) -> None:
    with System(of_old(old), settings=SETTINGS) as system, Caller(system.target) as caller:
        all_whole([*(caller.stream(deltas=50, per_second=50) for _ in range(5)), caller.chat(deltas=5)])


def test_new_worker_serves_an_old_bridge(old: Path) -> None:
    with System(COUNTING, settings=SETTINGS) as system:
        bridge = RunningBridge("bridge-old", {**system.env, "PYTHONPATH": str(old)}, Path(system._folder.name))
        system.bridges.append(bridge)
        bridge.start()
        system.wait_ready()
        with Caller(bridge.target) as caller:
            all_whole([*(caller.stream(deltas=50, per_second=50) for _ in range(5)), caller.chat(deltas=5)])


def test_streams_go_on_from_an_old_worker_at_a_new_one_and_the_other_way_round(old: Path) -> None:
    """In the middle of a roll-out either may be killed."""
    for first, second in ((of_old(old), COUNTING), (COUNTING, of_old(old))):
        with System(first, settings=SETTINGS) as system, Caller(system.target) as caller:
            streams = begun(caller.stream(deltas=100, per_second=25) for _ in range(5))
            system.add_worker(second)
            system.wait_ready()
            system.workers[0].kill()
            all_whole(streams)


def test_failure_is_not_tried_again_while_old_workers_are_there(old: Path) -> None:
    """They know no reopened calls, and would throw such a job away in the end: it is answered as it was until they are gone."""
    with System(of_old(old), settings=SETTINGS) as system, Caller(system.target) as caller:
        short = overdue(caller)
        system.add_worker(COUNTING)
        system.workers[0].kill()
        system.wait_ready()
        all_whole([caller.again(short)])


def overdue(caller: Caller) -> Stream:
    """A call that failed by its deadline, and that is answered so when it is asked for again.

    On a busy machine a client that hangs up at its deadline may be faster than the bridge's clock: then the call was cancelled.
    """
    for _ in range(10):
        short = caller.stream(deltas=100, per_second=50, timeout=1.0)
        ended([short])
        assert short.failure is not None
        again = caller.again(short)
        ended([again])
        assert again.failure is not None
        if again.failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return short
        assert again.failure.code is grpc.StatusCode.CANCELLED
    raise AssertionError("ten calls were all cancelled before their deadline")
