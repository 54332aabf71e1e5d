from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from qingyu_ai.cli.backoff import Backoff
from qingyu_ai.cli.process import Exited, GaveUp, Process, Program, Starting, Stopped, Stopping, Up, describe_exit
from tests.cli.children import OBEDIENT, STUBBORN, Memory, impatient, python
from tests.waiting import eventually, eventually_sync

Start = Callable[[Program], Process]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def start(memory: Memory) -> AsyncIterator[Start]:
    """Starts programs, and leaves none of them behind."""
    started: list[Process] = []

    def start_one(program: Program) -> Process:
        process = Process(program, memory.watcher, impatient())
        process.start()
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        await process.stop()


async def test_a_process_that_dies_is_started_again(start: Start, memory: Memory) -> None:
    start(python("mortal", "raise SystemExit(3)"))
    await eventually(lambda: len(memory.of("mortal", Starting)) >= 3)
    assert memory.of("mortal", Exited)[0].how == "exit status 3"
    assert [state.deaths for state in memory.of("mortal", Exited)][:2] == [1, 2]


REFUSAL = """
import sys
print('{"event": "address_taken", "level": "error", "error": "port 7 is taken"}')
sys.exit(2)
"""


async def test_a_process_whose_settings_do_not_hold_is_not_started_again(memory: Memory) -> None:
    hopeless = asyncio.Event()
    process = Process(python("strict", REFUSAL), memory.watcher, impatient(), hopeless.set)
    process.start()
    await asyncio.wait_for(hopeless.wait(), 10)
    assert process.state == GaveUp("exit status 2", "port 7 is taken")
    await process.stop()
    assert len(memory.of("strict", Starting)) == 1
    assert not memory.of("strict", Exited)


async def test_a_process_that_refuses_its_settings_while_it_is_stopped_has_given_up(memory: Memory) -> None:
    refuses = OBEDIENT.replace("sys.exit(0)", "sys.exit(2)")

    async def ready() -> str:
        return "it looks at its settings"

    process = Process(python("strict", refuses, ready=ready), memory.watcher)
    process.start()
    await eventually(memory.said("strict", "ready"))
    await process.stop()
    assert process.state == GaveUp("exit status 2", "ready")


async def test_a_process_that_died_of_something_else_before_may_still_refuse_its_settings(
    start: Start, memory: Memory, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    code = f"""
import pathlib, sys
note = pathlib.Path({str(note)!r})
status = 2 if note.exists() else 1
note.touch()
sys.exit(status)
"""
    start(python("strict", code))
    await eventually(lambda: memory.of("strict", GaveUp))
    assert [state.how for state in memory.of("strict", Exited)] == ["exit status 1"]


async def test_a_process_that_was_ready_once_is_started_again_whatever_its_status(start: Start, memory: Memory) -> None:
    async def ready() -> str:
        return ""

    waits = "import sys, time\ntime.sleep(0.3)\nsys.exit(2)"
    start(python("proven", waits, ready=ready))
    await eventually(lambda: len(memory.of("proven", Starting)) >= 2)
    assert memory.of("proven", Up)
    assert memory.of("proven", Exited)[0].how == "exit status 2"


async def test_a_killed_process_comes_back_with_another_pid(start: Start, memory: Memory) -> None:
    start(python("victim", OBEDIENT))
    await eventually(memory.said("victim", "ready"))
    first = memory.of("victim", Starting)[0].pid
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: len(memory.of("victim", Up)) == 2)
    assert memory.of("victim", Exited)[0].how == "killed by SIGKILL"
    assert memory.of("victim", Up)[1].pid != first


async def test_an_obedient_process_stops_cleanly(start: Start, memory: Memory) -> None:
    process = start(python("obedient", OBEDIENT))
    await eventually(memory.said("obedient", "ready"))
    await process.stop()
    assert process.state == Stopped("exit status 0", clean=True)
    assert process.clean


async def test_a_process_that_ignores_sigterm_is_killed_after_its_time(start: Start, memory: Memory) -> None:
    process = start(python("stubborn", STUBBORN, stop_seconds=0.3))
    await eventually(memory.said("stubborn", "ready"))
    loop = asyncio.get_running_loop()
    asked = loop.time()
    await process.stop()
    assert loop.time() - asked >= 0.3
    assert process.state == Stopped("killed by SIGKILL", clean=False)


async def test_stopping_gives_a_process_its_time_and_no_more_signals(start: Start, memory: Memory) -> None:
    slow = """
import os, signal, sys, time
def finish(*_):
    time.sleep(0.3)
    os.write(1, b"drained\\n")  # the signal may come while `print` still holds its buffer
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print("ready", flush=True)
while True:
    time.sleep(60)
"""
    process = start(python("slow", slow))
    await eventually(memory.said("slow", "ready"))
    await process.stop()
    assert ("slow", "drained") in memory.lines
    assert process.clean
    assert len(memory.of("slow", Stopping)) == 1


async def test_a_failure_while_stopping_is_not_clean(start: Start, memory: Memory) -> None:
    failing = OBEDIENT.replace("sys.exit(0)", "sys.exit(4)")
    process = start(python("failing", failing))
    await eventually(memory.said("failing", "ready"))
    await process.stop()
    assert process.state == Stopped("exit status 4", clean=False)


async def test_a_process_that_waits_for_its_restart_stops_at_once(memory: Memory) -> None:
    process = Process(python("mortal", "raise SystemExit(1)"), memory.watcher, Backoff(3600, 3600))
    process.start()
    await eventually(lambda: memory.of("mortal", Exited))
    await asyncio.wait_for(process.stop(), 10)
    assert process.clean


async def test_stopping_what_was_never_started_does_nothing(memory: Memory) -> None:
    await Process(python("idle", OBEDIENT), memory.watcher).stop()
    assert memory.states == []


async def test_stopping_in_the_middle_of_a_start_leaves_nothing(start: Start, memory: Memory) -> None:
    process = start(python("early", OBEDIENT))
    await asyncio.sleep(0)  # the start has begun, and there is no pid yet
    await process.stop()
    assert process.clean  # and was not left to SIGKILL
    pids = [state.pid for state in memory.of("early", Starting)]
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_program_that_does_not_exist_says_so_and_is_tried_again(start: Start, memory: Memory) -> None:
    start(Program("missing", ("/nowhere/program",)))
    await eventually(lambda: len(memory.of("missing", Exited)) >= 2)
    assert ("missing", "cannot start /nowhere/program: No such file or directory") in memory.lines


async def test_it_is_up_only_when_its_probe_says_so(start: Start, memory: Memory) -> None:
    answers = iter(["loading the model", "almost"])

    async def ready() -> str:
        return next(answers, "")

    process = start(python("probed", OBEDIENT, ready=ready))
    await eventually(lambda: process.reason == "loading the model")
    assert not process.up.is_set()
    await eventually(process.up.is_set)
    assert memory.of("probed", Up)


async def test_a_probe_with_a_defect_is_a_reason_and_not_a_silence(start: Start) -> None:
    async def ready() -> str:
        raise ValueError("no such port")

    process = start(python("probed", OBEDIENT, ready=ready))
    await eventually(lambda: process.reason == "the probe failed: ValueError: no such port")


async def test_what_it_writes_on_either_stream_is_handed_on_in_order(start: Start, memory: Memory) -> None:
    code = """
import sys, time
for i in range(3):
    print("out", i, flush=True)
    print("err", i, file=sys.stderr, flush=True)
time.sleep(60)
"""
    start(python("talker", code))
    await eventually(lambda: len(memory.lines) == 6)
    assert [line for _, line in memory.lines] == ["out 0", "err 0", "out 1", "err 1", "out 2", "err 2"]


async def test_the_environment_is_added_to_ours(start: Start, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    code = "import os; print(os.environ['INHERITED'], os.environ['QINGYU_NATS__URL'], flush=True)"
    start(python("env", code, env={"QINGYU_NATS__URL": "nats://there"}))
    await eventually(memory.said("env", "yes nats://there"))


async def test_its_grandchildren_die_with_it(start: Start, memory: Memory, tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(note)!r}, "w").write(str(child.pid))
"""
    process = start(python("parent", code))
    await eventually(lambda: memory.of("parent", Exited))
    pid = int(note.read_text())
    await process.stop()
    await eventually(lambda: not alive(pid))


async def test_it_has_a_session_of_its_own_so_that_ctrl_c_reaches_only_the_supervisor(
    start: Start, memory: Memory
) -> None:
    start(python("own", OBEDIENT))
    await eventually(memory.said("own", "ready"))
    pid = memory.of("own", Starting)[0].pid
    assert os.getsid(pid) == pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_no_child_outlives_a_supervisor_that_is_killed_with_sigkill(tmp_path: Path) -> None:
    note = tmp_path / "child"
    code = f"""
import asyncio, pathlib
from qingyu_ai.cli.process import Process, Starting, Watcher
from tests.cli.children import python

def changed(program, state):
    if isinstance(state, Starting):
        pathlib.Path({str(note)!r}).write_text(str(state.pid))

async def main():
    silent = "import time; time.sleep(60)"  # or the broken pipe would end it
    Process(python("orphan", silent), Watcher(lambda *_: None, changed)).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""
    supervisor = psutil.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        eventually_sync(lambda: note.is_file() and note.read_text())
        child = int(note.read_text())
        # Not before the tether has become the program, which is when the signal has been asked for.
        eventually_sync(lambda: "tether.py" not in " ".join(psutil.Process(child).cmdline()))
        assert alive(child)
    finally:
        supervisor.kill()
        supervisor.wait()
    try:
        eventually_sync(lambda: not alive(child))
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")],
)
def test_an_exit_is_described_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words


def alive(pid: int) -> bool:
    """A zombie counts as dead: whoever inherits it has not come round to it yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
