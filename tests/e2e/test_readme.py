"""Every command in README is run here, as it stands there but for the ports and the name of the virtual environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.nats_process import NatsProcess
from tests.optional import require_program
from tests.ports import free_ports
from tests.upstream.process import Upstream
from tests.waiting import eventually_sync

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()

pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("readme"),
    pytest.mark.skipif(
        not (Path(sys.prefix) / ".ready").exists(),
        reason="this Python was not set up by make, so `make` would set it up anew",
    ),
]


def commands() -> set[str]:
    """What README tells to type: lines of sh blocks, and inline code that runs make."""
    typed = {
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", README, re.S)
        for line in re.sub(r" *\\\n *", " ", block).splitlines()
    }
    return (typed | set(re.findall(r"`((?:\w+=\S+ )*make [a-z-]+)`", README))) - {""}


TOUR = ".venv/bin/python examples/tour.py --target 127.0.0.1:50051"
OTHER_PORT = "QINGYU_BRIDGE__PORT=50061 make up"
WITH_A_MODEL = "QINGYU_LLM__BASE_URL=http://127.0.0.1:11434/v1 QINGYU_LLM__API_KEY=none make demo"
OTHER_NATS = "NATS_URL=nats://host:4222 make up"
WITH_THE_PROXY = "QINGYU_PROXY__PROCESSES=1 make up"
CURL = (
    "curl -N http://127.0.0.1:8080/api/v1/ai/chat/stream -H 'Content-Type: application/json' -H 'X-User-Id: u1'"
    """ -d '{"messages": [{"role": "user", "content": "沈砚的灯为什么不能灭？"}]}'"""
)


def test_readme_has_the_commands_that_are_run_here_and_no_others() -> None:
    """`make test` is what runs this; `make bench` is measured by a person, `make help` below."""
    made = {"make demo", "make test", "make up", "make cluster", "make bench", "make help"}
    assert commands() == {*made, TOUR, WITH_A_MODEL, OTHER_PORT, OTHER_NATS, WITH_THE_PROXY, CURL}


def typed(command: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command.split(), f"VENV={sys.prefix}"],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_make_help_lists_every_target_that_readme_names() -> None:
    said, _ = typed("make help").communicate(timeout=30)
    for target in {c.split()[-1] for c in commands() if "make " in c}:
        assert re.search(rf"make {target}\s+\w", said)


def test_make_demo_works() -> None:
    process = typed("make demo")
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert "全部完成" in said
    assert "chunks per second" in said


def test_make_demo_speaks_with_a_model_of_yours() -> None:
    """A server of the test's own, in place of the one that README names."""
    with Upstream() as upstream:
        variables = {"QINGYU_LLM__BASE_URL": upstream.base_url, "QINGYU_LLM__API_KEY": "none"}
        assert set(variables) == {word.partition("=")[0] for word in WITH_A_MODEL.split()[:2]}
        process = typed("make demo", **variables)
        said, _ = process.communicate(timeout=100)
        asked = [seen.path for seen in upstream.seen()]
    assert process.returncode == 0, said
    assert "离线演示" not in said
    assert "x-usage-estimated: false" in said
    assert said.count("the model called no tool") == 2  # the server echoes
    assert asked.count("/v1/chat/completions") == 7


@contextmanager
def up(tmp_path: Path, **env: str) -> Iterator[tuple[str, list[str]]]:
    """`make up` with ports of its own, until Ctrl-C. Gives the bridge's address and, in the end, what was printed."""
    bridge, bridge_metrics, chat_metrics, tool_metrics, agent_metrics, rag_metrics, database, nats, monitor, *proxy = (
        free_ports(11)
    )
    ports = {
        "QINGYU_BRIDGE__PORT": str(bridge),
        "QINGYU_BRIDGE__METRICS_PORT": str(bridge_metrics),
        "QINGYU_CHAT__METRICS_PORT": str(chat_metrics),
        "QINGYU_TOOL__METRICS_PORT": str(tool_metrics),
        "QINGYU_AGENT__METRICS_PORT": str(agent_metrics),
        "QINGYU_RAG__METRICS_PORT": str(rag_metrics),
        "QINGYU_RAG__PORT": str(database),
        "QINGYU_NATS__PORT": str(nats),
        "QINGYU_NATS__MONITOR_PORT": str(monitor),
        "QINGYU_PROXY__PORT": str(proxy[0]),
        "QINGYU_PROXY__METRICS_PORT": str(proxy[1]),
        "QINGYU_DATA_DIR": str(tmp_path / "data"),
    }
    process = typed("make up", **{**ports, **env})
    said: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if "The bridge listens on" in line:
            break
    try:
        assert process.poll() is None, "".join(said)
        yield f"127.0.0.1:{bridge}", said
    finally:
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        said += rest.splitlines()
        eventually_sync(lambda: process.poll() is not None)


def tour(target: str) -> str:
    command = TOUR.replace(".venv/bin/python", sys.executable).replace("127.0.0.1:50051", target)
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_up_on_another_port_serves_the_tour_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    with up(tmp_path) as (target, said):
        assert "全部完成" in tour(target)
    assert any(line.startswith("stopped") for line in said)


def test_make_up_with_the_proxy_streams_events_to_curl_and_over_a_websocket(tmp_path: Path) -> None:
    curl = require_program("curl")
    [python] = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "websockets" in block]
    [variable, *_] = WITH_THE_PROXY.split()
    with up(tmp_path, **dict([variable.split("=")])) as (_, said):
        [proxy] = re.findall(r"The AI Proxy listens on (\S+)", "".join(said))
        command = [curl, "--noproxy", "*", *shlex.split(CURL.replace("127.0.0.1:8080", proxy))[1:]]
        streamed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        there = python.replace("127.0.0.1:8080", proxy)
        socket = subprocess.run(
            [sys.executable, "-c", there], env={**os.environ, "NO_PROXY": "*"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert streamed.stdout.endswith('event: done\ndata: {"status":"completed"}\n\n'), streamed.stdout + streamed.stderr
    found = [json.loads(line[6:]) for line in streamed.stdout.splitlines() if line.startswith('data: {"delta')]
    text = "".join(one["delta"] for one in found)
    assert "沈砚的灯为什么不能灭？" in text
    assert len(found) > 5, "it came in pieces"
    assert socket.returncode == 0, socket.stderr
    assert socket.stdout == text, "the offline model always answers the same"


def test_make_up_uses_the_server_that_nats_url_names(tmp_path: Path) -> None:
    nats = NatsProcess()
    nats.start()
    try:
        with up(tmp_path, NATS_URL=nats.url) as (target, said):
            assert "全部完成" in tour(target)
            assert not any(line.startswith("nats ") and "starting" in line for line in said)
    finally:
        nats.close()


def test_make_cluster_prints_the_command_with_which_make_up_runs_on_it(tmp_path: Path) -> None:
    client, route, monitor = free_ports(3)
    cluster = typed(
        "make cluster",
        QINGYU_NATS__PORT=str(client),
        QINGYU_NATS__ROUTE_PORT=str(route),
        QINGYU_NATS__MONITOR_PORT=str(monitor),
        QINGYU_DATA_DIR=str(tmp_path / "servers"),
    )
    assert cluster.stdout is not None
    said: list[str] = []
    for line in cluster.stdout:
        said.append(line)
        if "Stop      Ctrl-C" in line:
            break
    try:
        [printed] = re.findall(r"(NATS_URL=\S+) (QINGYU_BUS__REPLICAS=3) make up", "".join(said))
        with up(tmp_path, **dict(pair.split("=", 1) for pair in printed)) as (target, _):
            assert "全部完成" in tour(target)
    finally:
        os.killpg(cluster.pid, signal.SIGINT)
        rest, _ = cluster.communicate(timeout=60)
    assert rest.rstrip().endswith("stopped"), rest
