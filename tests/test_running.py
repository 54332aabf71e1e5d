from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.process import Running, SystemBroken
from tests.running import System, Worker, echo
from tests.waiting import eventually_sync


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_system_starts_loses_a_worker_gets_it_back_and_leaves_nothing_behind() -> None:
    before = children()
    with System(echo(), echo("rag"), bridges=2) as system:
        for bridge in system.bridges:
            details = bridge.health().details
            assert (details["worker.chat"], details["worker.rag"]) == ("1 running", "1 running")
        assert len({bridge.target for bridge in system.bridges}) == 2
        chat, _ = system.workers
        first = chat.pid
        assert "worker_started" in chat.log
        chat.kill()
        system.wait_ready()
        assert system.bridges[0].health().status == "unhealthy"
        chat.start()
        system.add_worker(echo())
        system.wait_ready()
        assert chat.pid != first
        assert system.bridges[1].health().details["worker.chat"] == "2 running"
        system.bridges[0].terminate()
        assert system.bridges[0].wait() == 0
        assert "bridge_stopped" in system.bridges[0].log
    assert children() == before


def test_a_process_that_does_not_start_is_named_with_its_log() -> None:
    before = children()
    with pytest.raises(SystemBroken, match=r"(?s)chat-1 ended by itself with status 1.*No module named 'no_such'"):
        System(Worker("no_such.module", "chat")).__enter__()
    assert children() == before


def test_a_process_that_ends_by_itself_fails_the_test_that_did_not_notice() -> None:
    before = children()
    system = System(bridges=1).__enter__()
    os.kill(system.bridges[0].pid, signal.SIGKILL)
    eventually_sync(lambda: not system.bridges[0].alive)
    with pytest.raises(SystemBroken, match=f"bridge-1 ended by itself with status -{int(signal.SIGKILL)}"):
        system.__exit__(None, None, None)
    assert children() == before


def test_a_failed_test_gets_the_logs_and_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = children()
    with pytest.raises(ZeroDivisionError), System(bridges=1):
        _ = 1 / 0
    assert "--- bridge-1\n" in (out := capsys.readouterr().out)
    assert "bridge_started" in out
    assert children() == before


def test_a_paused_process_ends_when_it_is_told_to(tmp_path: Path) -> None:
    process = Running("sleeper", "timeit", {}, tmp_path)
    process.start()
    process.pause()
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    assert not process.crashed


def test_a_process_that_does_not_stop_is_killed_and_named(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = Running("stubborn", "stubborn", {}, tmp_path)
    process.start()
    eventually_sync(lambda: process.said("ready"))
    process.terminate()
    with pytest.raises(SystemBroken, match=r"(?s)stubborn had not stopped after 0\.1 s:.*ready"):
        process.wait(timeout=0.1)
    assert not process.alive
