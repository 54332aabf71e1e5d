"""`up` and `demo` as a person runs them, with the real broker and dummies for the rest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from qingyu_ai.cli import postgres
from qingyu_ai.cli.preflight import hold
from tests.cli.command import ROOT, Run, gone, ports
from tests.cli.dummy_process import FAULT
from tests.postgres import programs_folder
from tests.waiting import eventually_sync

NO_RETRIEVAL = {"QINGYU_RAG__PROCESSES": "0"}
"""Its database takes seconds to make, and these tests are about other things."""


def test_up_starts_everything_says_where_it_is_and_stops_cleanly_on_ctrl_c(run: Run) -> None:
    where = ports()
    up = run("up", **where)
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    target = f"127.0.0.1:{where['QINGYU_BRIDGE__PORT']}"
    assert f"The bridge listens on {target}" in up.output
    assert f"python examples/tour.py --target {target}" in up.output
    assert f"http://127.0.0.1:{where['QINGYU_BRIDGE__METRICS_PORT']}/metrics" in up.output
    ready = re.compile(r"^bridge   │ \d\d:\d\d:\d\d info     bridge is ready  nats=.*data_dir=", re.MULTILINE)
    eventually_sync(lambda: ready.search(up.output))  # it logs this after it answers
    children = up.children()
    up.process.send_signal(signal.SIGINT)
    assert up.finish() == 0
    assert "bridge is ready" in up.output
    assert up.output.index("bridge has drained") < up.output.index("chat     │ ● stopping")
    assert up.output.index("chat has drained") < up.output.index("nats     │ ● stopping")
    assert gone(children)()
    assert "\x1b" not in up.output


def test_up_stops_as_cleanly_on_sigterm(run: Run) -> None:
    up = run("up", **ports())
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    up.process.terminate()
    assert up.finish() == 0
    assert up.output.rstrip().endswith("stopped")


def test_a_second_ctrl_c_kills_at_once(run: Run) -> None:
    up = run("up", **ports(**{FAULT: "ignores SIGTERM", "QINGYU_BRIDGE__DRAIN_SECONDS": "600"}))
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    children = up.children()
    up.process.send_signal(signal.SIGINT)
    eventually_sync(up.says("bridge   │ ● stopping"))
    up.process.send_signal(signal.SIGINT)
    assert up.finish() == 1
    assert "stopped, but not cleanly" in up.output
    assert gone(children)()


def test_a_child_that_is_killed_comes_back(run: Run) -> None:
    up = run("up", **ports())
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    [chat] = [p for p in up.children() if "tests.cli.dummy_chat" in p.cmdline()]
    chat.kill()
    eventually_sync(up.says("chat     │ ● exited: killed by SIGKILL; restarting in 0.5 s"))
    eventually_sync(lambda: up.output.count("chat     │ ● up") == 2)
    up.process.terminate()
    assert up.finish() == 0


def test_up_that_was_started_with_nohup_outlives_its_terminal(run: Run) -> None:
    up = run("up", prefix="nohup", **ports())
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    up.process.send_signal(signal.SIGHUP)
    up.process.terminate()
    assert up.finish() == 0
    assert up.output.count("stopping; once more") == 1  # a heeded SIGHUP would have made SIGTERM the second signal
    assert "not cleanly" not in up.output


@pytest.mark.parametrize("name", ["chat", "bridge"])
def test_a_child_whose_settings_do_not_hold_ends_everything_and_is_named_last(run: Run, name: str) -> None:
    up = run("up", **ports(**{FAULT: f"{name} refuses"}))
    assert up.finish() == 2
    assert up.output.count(f"{name:<8} │ ● starting") == 1
    assert "nats     │ ● stopped: exit status 0" in up.output
    assert up.output.splitlines()[-1] == (
        f"{name} cannot run as it is set up (exit status 2): set QINGYU_{name.upper()}__PORT to a free one"
    )
    assert "not cleanly" not in up.output


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_nothing_is_left_when_up_itself_is_killed(run: Run) -> None:
    up = run("up", **ports())
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    children = up.children()
    assert len(children) == 5
    up.process.kill()
    try:
        eventually_sync(gone(children))
    finally:
        for child in children:
            if child.is_running():
                child.kill()


def test_a_taken_port_is_named_with_its_setting_and_nothing_is_started(run: Run) -> None:
    where = ports()
    with hold("127.0.0.1", int(where["QINGYU_BRIDGE__PORT"])):
        up = run("up", **where)
        assert up.finish() == 2
    assert up.output == f"port {where['QINGYU_BRIDGE__PORT']} is taken: set QINGYU_BRIDGE__PORT to a free one\n"
    assert not (up.path.parent / "var").exists()


def test_a_second_up_on_the_same_data_directory_is_refused(run: Run) -> None:
    first = run("up", **ports())
    eventually_sync(first.says("Stop      Ctrl-C"), timeout=20)
    second = run("up", **ports(QINGYU_DATA_DIR=first.env["QINGYU_DATA_DIR"]))
    assert second.finish() == 2
    assert "QINGYU_DATA_DIR" in second.output
    first.process.terminate()
    assert first.finish() == 0


def test_a_wrong_setting_is_named(run: Run) -> None:
    up = run("up", **ports(QINGYU_BRIDGE__PORT="many"))
    assert up.finish() == 2
    assert "QINGYU_BRIDGE__PORT" in up.output
    assert "Traceback" not in up.output


def test_a_data_directory_that_cannot_be_made_is_named(run: Run) -> None:
    up = run("up", **ports(QINGYU_DATA_DIR="/proc/nothing/here"))
    assert up.finish() == 2
    assert re.match(r"cannot write to /proc/nothing/here \(.*\): set QINGYU_DATA_DIR", up.output)


def test_a_given_nats_server_is_used_and_none_is_started(run: Run) -> None:
    where = ports()
    first = run("up", **where)
    eventually_sync(first.says("Stop      Ctrl-C"), timeout=20)
    url = f"nats://user:secret@127.0.0.1:{where['QINGYU_NATS__PORT']}"
    second = run("up", **ports(NATS_URL=url))
    eventually_sync(second.says("Stop      Ctrl-C"), timeout=20)
    assert len(second.children()) == 4
    shown = url.replace("user:secret@", "")
    assert f"uses the NATS server at {shown}" in second.output
    assert "secret" not in second.output.split("bridge   │")[0]
    for command in (second, first):
        command.process.terminate()
        assert command.finish() == 0


def test_two_bridges_and_port_zero_get_ports_that_everybody_knows(run: Run) -> None:
    up = run("up", **ports(QINGYU_BRIDGE__PROCESSES="2", QINGYU_BRIDGE__PORT="0", QINGYU_NATS__PORT="0"))
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    metrics = int(up.env["QINGYU_BRIDGE__METRICS_PORT"])
    for port in (metrics, metrics + 1):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            assert answer.status == 200
    assert ":0 " not in up.output
    assert len(up.children()) == 6
    up.process.terminate()
    assert up.finish() == 0


def test_up_goes_on_and_stops_cleanly_when_nobody_reads_its_output_any_more(run: Run, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "QINGYU_DATA_DIR": str(tmp_path / "var"), **ports()}
    command = [sys.executable, "-m", "tests.cli.dummy_system", "up"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if "Stop      Ctrl-C" in line:
                break
        up.stdout.close()
        up.terminate()
        assert up.wait(15) == 0


def test_the_demo_takes_the_tour_stops_everything_and_leaves_no_files(run: Run, tmp_path: Path) -> None:
    programs_folder()
    demo = run(
        "demo", TMPDIR=str(tmp_path), NATS_URL="nats://nowhere.invalid:4222", QINGYU_RAG__DSN="host=nowhere.invalid"
    )
    assert demo.finish(60) == 0, demo.output
    assert demo.output.startswith(
        "starting nats, postgres, chat, tool, agent, rag, bridge, proxy on free ports\n"
    )  # its own broker and database, in spite of NATS_URL and QINGYU_RAG__DSN
    assert "全部完成 · all done" in demo.output
    assert demo.output.rstrip().endswith("The demo worked: everything started, answered and stopped.")
    assert list(tmp_path.glob("qingyu-demo-*")) == []


def test_a_demo_without_the_wheel_says_so_and_shows_the_rest(run: Run) -> None:
    demo = run("demo", **{FAULT: "no wheel"})
    assert demo.finish(60) == 0, demo.output
    assert demo.output.splitlines()[:2] == [
        postgres.LEFT_OUT,
        "starting nats, chat, tool, agent, bridge, proxy on free ports",
    ]
    assert "there is no retrieval here" in demo.output
    assert "全部完成 · all done" in demo.output


def test_a_demo_whose_process_never_gets_ready_says_what_it_waited_for(run: Run, tmp_path: Path) -> None:
    demo = run("demo", TMPDIR=str(tmp_path), **NO_RETRIEVAL, **{FAULT: "never ready"})
    assert demo.finish(60) == 1
    assert "waiting for chat: " in demo.output
    assert "not everything was up after 3 s. Still missing: chat: " in demo.output
    assert list(tmp_path.glob("qingyu-demo-*")) == []


def test_a_demo_whose_process_refuses_its_settings_does_not_wait_for_it(run: Run) -> None:
    demo = run("demo", **NO_RETRIEVAL, **{FAULT: "chat refuses"})
    assert demo.finish(60) == 1
    assert "not everything was up" not in demo.output
    assert "The demo failed: chat cannot run as it is set up (exit status 2): set QINGYU_CHAT__PORT" in demo.output


def test_a_demo_whose_tour_fails_shows_the_logs_of_the_processes(run: Run) -> None:
    demo = run("demo", **NO_RETRIEVAL, **{FAULT: "no final chunk"})
    assert demo.finish(60) == 1
    assert "the stream ended without a final chunk" in demo.output
    assert "──── the last lines of bridge" in demo.output
    assert "The demo failed: the tour failed with exit status 1" in demo.output


def test_a_demo_that_does_not_stop_cleanly_has_failed(run: Run) -> None:
    drain = {f"QINGYU_{name}__DRAIN_SECONDS": "0.1" for name in ("BRIDGE", "PROXY", "CHAT")}
    demo = run("demo", **drain, **NO_RETRIEVAL, **{FAULT: "bridge ignores SIGTERM"})
    assert demo.finish(60) == 1
    assert "bridge did not stop cleanly: stopped: killed by SIGKILL" in demo.output


def test_a_demo_that_is_interrupted_stops_everything(run: Run, tmp_path: Path) -> None:
    demo = run("demo", TMPDIR=str(tmp_path), **NO_RETRIEVAL, **{FAULT: "never ready, patiently"})
    eventually_sync(demo.says("waiting for chat: chat loads its model"), timeout=50)
    children = demo.children()
    demo.process.send_signal(signal.SIGINT)
    assert demo.finish() == 130
    assert gone(children)()
    assert list(tmp_path.glob("qingyu-demo-*")) == []


def test_the_version_is_printed(run: Run) -> None:
    version = run("version", module="qingyu_ai.cli")
    assert version.finish() == 0
    assert re.match(r"qingyu-ai .+ \(Python 3\.\d+\.\d+, nats-server 2\.15\.\d+\)\n$", version.output)
