from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import structlog
import uvloop
from structlog.testing import capture_logs

from services.tool.errors import (
    InvalidParameters,
    OutOfMemory,
    OutputTooLarge,
    SandboxUnavailable,
    ToolDefect,
    ToolDied,
    ToolFailed,
    ToolTimeout,
)
from services.tool.sandbox import Sandbox
from tests.tool import naughty
from tests.waiting import eventually, eventually_sync

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox leans on Linux")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(naughty.TOOLS, children=2, settings={"surroundings": ["敏感"]}) as made:
        yield made


async def test_a_child_is_kept_between_calls(sandbox: Sandbox) -> None:
    assert await sandbox.run(naughty.double, '{"number": 21}') == '{"double":42}'
    before = sandbox.pids
    assert await sandbox.run(naughty.double, '{"number": 1}') == '{"double":2}'
    assert len(before) == 1
    assert sandbox.pids == before


async def test_environment_is_empty_and_settings_came_before_the_first_call(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of the worker")
    seen = json.loads(await sandbox.run(naughty.surroundings, ""))
    assert seen["environment"] == {}
    assert seen["settings"] == [["敏感"]]
    [pid] = sandbox.pids
    assert seen["pid"] == pid
    assert psutil.Process(pid).environ() == {}


async def test_child_runs_as_nobody_where_it_may_choose(sandbox: Sandbox) -> None:
    expected = 65534 if os.getuid() == 0 else os.getuid()
    assert json.loads(await sandbox.run(naughty.surroundings, ""))["uid"] == expected


async def test_child_has_no_descriptor_but_its_pipes(sandbox: Sandbox, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        await sandbox.run(naughty.double, '{"number": 1}')
        [pid] = sandbox.pids
        open_there = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert open_there.count(os.devnull) == 3
    assert [path.split(":")[0] in ("pipe", "socket") for path in open_there if path != os.devnull] == [True, True]


@pytest.mark.parametrize(
    ("code", "came"),
    [
        ("pass", "done"),
        ("open('/etc/passwd')", "OSError"),
        ("Path('/etc/passwd').read_text()", "OSError"),
        ("open('new', 'w')", "OSError"),
        ("os.listdir('/')", "OSError"),
        ("os.dup(0)", "OSError"),
        ("socket.socket()", "OSError"),
        ("socket.create_connection(('127.0.0.1', 4222))", "OSError"),
        ("os.fork()", "BlockingIOError"),
        ("threading.Thread(target=print).start()", "RuntimeError"),
    ],
)
async def test_what_is_kept_out_for_every_user(sandbox: Sandbox, code: str, came: str) -> None:
    assert json.loads(await sandbox.run(naughty.attempt, json.dumps({"code": code}))) == {"came": came}


@pytest.mark.skipif(os.getuid() != 0, reason="another user may need Landlock for it")
@pytest.mark.parametrize(
    "code",
    [
        "os.mkdir('new')",
        "os.remove('/etc/hostname')",
        "os.chmod('/', 0)",
        "os.kill(os.getppid(), 0)",
        "os.execv('/bin/true', ['true'])",
        "os.setuid(0)",
    ],
)
async def test_what_is_kept_out_when_the_worker_is_root(sandbox: Sandbox, code: str) -> None:
    said = json.loads(await sandbox.run(naughty.attempt, json.dumps({"code": code})))
    assert said["came"] in ("PermissionError", "FileNotFoundError")


async def test_endless_loop_is_ended_and_the_next_call_has_a_new_child(sandbox: Sandbox) -> None:
    await sandbox.run(naughty.double, '{"number": 1}')
    [before] = sandbox.pids
    structlog.reset_defaults()
    with capture_logs() as logged, pytest.raises(ToolTimeout, match=r"0\.5 seconds") as caught:
        await sandbox.run(naughty.endless, "{}")
    [line] = [one for one in logged if one["event"] == "tool_timed_out"]
    assert (line["tool"], line["seconds"], line["pid"]) == ("endless", 0.5, before)
    assert caught.value.seconds == 0.5
    assert "0.5 秒" in caught.value.chinese
    await eventually(lambda: not psutil.pid_exists(before))
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'


async def test_memory_bomb_is_ended(sandbox: Sandbox) -> None:
    with pytest.raises(OutOfMemory):
        await sandbox.run(naughty.hungry, "{}")
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'


async def test_child_that_crashes_is_replaced(sandbox: Sandbox) -> None:
    with pytest.raises(ToolDied):
        await sandbox.run(naughty.suicide, "{}")
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'


async def test_exception_reaches_the_log_once_and_the_caller_as_an_id(sandbox: Sandbox) -> None:
    structlog.reset_defaults()
    with capture_logs() as logged, pytest.raises(ToolDefect) as caught:
        await sandbox.run(naughty.broken, "{}")
    [entry] = [one for one in logged if one["event"] == "tool_failed"]
    assert entry["error_id"] == caught.value.error_id
    assert "a secret of the tool" in entry["traceback"]
    assert "secret" not in caught.value.english + caught.value.chinese
    assert caught.value.error_id in caught.value.english


async def test_failure_on_purpose_reaches_the_caller_in_both_languages(sandbox: Sandbox) -> None:
    with pytest.raises(ToolFailed) as caught:
        await sandbox.run(naughty.refusing, "{}")
    assert (caught.value.english, caught.value.chinese) == ("There is no such day", "没有这一天")


async def test_long_reason_is_cut(sandbox: Sandbox) -> None:
    with pytest.raises(ToolFailed) as caught:
        await sandbox.run(naughty.refusing_at_length, "{}")
    assert caught.value.english == "n" * 1000
    assert caught.value.chinese == "不" * 1000


async def test_print_does_not_touch_the_protocol(sandbox: Sandbox) -> None:
    assert await sandbox.run(naughty.printing, "{}") == '{"read":""}'
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'


@pytest.mark.parametrize(("characters", "fits"), [(332, True), (333, False), (100_000, False)])
async def test_output_is_limited_in_bytes(sandbox: Sandbox, characters: int, fits: bool) -> None:
    call = sandbox.run(naughty.talkative, json.dumps({"number": characters}))
    if fits:
        assert json.loads(await call) == "字" * characters
        return
    with pytest.raises(OutputTooLarge) as caught:
        await call
    assert (caught.value.size, caught.value.limit) == (3 * characters + 2, 1000)


async def test_nan_is_a_defect_of_the_tool(sandbox: Sandbox) -> None:
    with pytest.raises(ToolDefect):
        await sandbox.run(naughty.not_a_number, "{}")


async def test_wrong_parameters_start_no_child(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidParameters):
        await sandbox.run(naughty.double, '{"number": "1"}')
    assert sandbox.pids == []


async def test_a_hundred_calls_at_once_share_two_children(sandbox: Sandbox) -> None:
    calls = [sandbox.run(naughty.double, json.dumps({"number": n})) for n in range(100)]
    assert [json.loads(said)["double"] for said in await asyncio.gather(*calls)] == [2 * n for n in range(100)]
    assert len(sandbox.pids) == 2


async def test_cancelled_call_kills_its_child(sandbox: Sandbox) -> None:
    await sandbox.run(naughty.double, '{"number": 1}')
    [pid] = sandbox.pids
    call = asyncio.create_task(sandbox.run(naughty.sleeper, "{}"))
    await asyncio.sleep(0.1)
    assert psutil.pid_exists(pid)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(lambda: not psutil.pid_exists(pid))
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'


async def test_child_that_died_unneeded_costs_no_call(sandbox: Sandbox) -> None:
    await sandbox.start()
    [pid] = sandbox.pids
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not psutil.pid_exists(pid))
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'
    assert pid not in sandbox.pids


async def test_interrupt_of_the_terminal_is_not_for_the_children(sandbox: Sandbox) -> None:
    await sandbox.run(naughty.double, '{"number": 1}')
    [pid] = sandbox.pids
    os.kill(pid, signal.SIGINT)
    assert await sandbox.run(naughty.double, '{"number": 2}') == '{"double":4}'
    assert sandbox.pids == [pid]


async def test_close_while_a_child_starts_leaves_none() -> None:
    sandbox = Sandbox(naughty.TOOLS)
    call = asyncio.create_task(sandbox.run(naughty.double, '{"number": 1}'))
    await asyncio.sleep(0.01)
    await sandbox.close()
    with pytest.raises(SandboxUnavailable):
        await call
    assert sandbox.pids == []
    await sandbox.close()


async def test_close_ends_children_and_calls() -> None:
    sandbox = Sandbox(naughty.TOOLS)
    call = asyncio.create_task(sandbox.run(naughty.sleeper, "{}"))
    await eventually(lambda: sandbox.pids)
    [pid] = sandbox.pids
    await sandbox.close()
    with pytest.raises(ToolDied):
        await call
    assert not psutil.pid_exists(pid)
    with pytest.raises(SandboxUnavailable):
        await sandbox.run(naughty.double, '{"number": 2}')


async def test_tool_that_cannot_be_set_up_is_told_in_the_log() -> None:
    structlog.reset_defaults()
    async with Sandbox(naughty.TOOLS, settings={"double": 1}) as sandbox:
        with capture_logs() as logged, pytest.raises(SandboxUnavailable):
            await sandbox.start()
    [entry] = logged
    assert "takes no settings" in entry["traceback"]


def test_settings_for_an_unknown_tool_are_refused() -> None:
    with pytest.raises(ValueError, match="does not run: nobody"):
        Sandbox(naughty.TOOLS, settings={"nobody": 1})


def test_it_runs_on_uvloop_with_threads_beside_it() -> None:
    async def doubled() -> list[str]:
        async with Sandbox(naughty.TOOLS, children=2) as sandbox:
            await asyncio.to_thread(len, ())  # a thread of the pool, which stays
            calls = [sandbox.run(naughty.double, json.dumps({"number": n})) for n in range(10)]
            with pytest.raises(ToolTimeout):
                await sandbox.run(naughty.endless, "")
            return await asyncio.gather(*calls)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(doubled()) == [f'{{"double":{2 * n}}}' for n in range(10)]


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="takes a right away from root")
def test_guard_that_cannot_be_had_is_told_in_the_log() -> None:
    code = """
import asyncio
from services.tool.sandbox import Sandbox
from tests.tool import naughty

async def main():
    async with Sandbox(naughty.TOOLS) as sandbox:
        print(await sandbox.run(naughty.double, '{"number": 1}'))
        print(await sandbox.run(naughty.attempt, '{"code": "socket.socket()"}'))

asyncio.run(main())
"""
    weaker = ["setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot", sys.executable, "-c", code]
    said = subprocess.run(weaker, cwd=Path(__file__).parents[2], capture_output=True, check=True, text=True).stdout
    assert '{"double":2}' in said
    assert '{"came":"OSError"}' in said
    assert said.count("tool_sandbox_is_weaker") == 1
    assert "nobody" in said


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_children_die_with_the_worker_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "children"
    code = f"""
import asyncio, pathlib
from services.tool.sandbox import Sandbox
from tests.tool import naughty

async def main():
    sandbox = Sandbox(naughty.TOOLS, children=2)
    await sandbox.run(naughty.double, '{{"number": 1}}')
    call = asyncio.create_task(sandbox.run(naughty.sleeper, ""))
    other = asyncio.create_task(sandbox.run(naughty.sleeper, ""))
    while len(sandbox.pids) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    pathlib.Path({str(note)!r}).write_text(" ".join(map(str, sandbox.pids)) + ".")
    await asyncio.gather(call, other)

asyncio.run(main())
"""
    worker = psutil.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        eventually_sync(lambda: note.is_file() and note.read_text().endswith("."), timeout=30)
        children = [psutil.Process(int(pid)) for pid in note.read_text().rstrip(".").split()]
        assert len(children) == 2
        assert all(is_alive(child) for child in children)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    eventually_sync(lambda: not any(is_alive(child) for child in children))
