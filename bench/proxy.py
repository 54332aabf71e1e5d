"""What a call through the AI Proxy costs, beside a LiteLLM proxy on the same scripted upstream in one run (`make bench`).

Ours is the sum over all processes that a call passes: proxy, bridge, nats-server, chat worker. The caller of both is the same
bare HTTP client, in a process of its own that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx2
from rich.console import Console
from rich.table import Table

from bench.models import DELTAS, HERE, PACE, PACED, SATURATED, environment, wait_for
from bench.novel import SIZE, novel
from bench.processes import Processes, cpu_seconds
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.upstream.process import Upstream
from tests.upstream.replies import chat

PLAIN = "plain"
ANSWER = "雨停了，他把船牌攥进手心，一步一步走下渡口。" * 4
PARTS = ("proxy", "bridge", "nats", "chat")
TARGETS = {PLAIN: 10.0, SATURATED: 10.0, PACED: 3.0}
"""How many times less than LiteLLM it shall cost."""

Costs = dict[str, dict[str, float]]
"""By scripted model and process: CPU seconds a call."""

console = Console(width=130)


def start_ours(processes: Processes, upstream: Upstream) -> tuple[str, str]:
    """Start the whole system.

    Returns:
        The addresses of proxy and bridge.
    """
    bridge, metrics, port = free_ports(3)
    models = {m: {"base_url": upstream.base_url, "model": m, "connections": 1000} for m in (PLAIN, SATURATED, PACED)}
    env = {
        "NATS_URL": processes.nats(),
        "QINGYU_BRIDGE__PORT": str(bridge),
        "QINGYU_BRIDGE__METRICS_PORT": str(metrics),
        "QINGYU_BRIDGE__EXPECTED_WORKERS": '["chat"]',  # otherwise it is not healthy
        "QINGYU_CHAT__METRICS_PORT": "0",
        "QINGYU_CHAT__SLOTS": "1000",
        "QINGYU_LLM__MODELS": json.dumps(models),
        "QINGYU_AI__PROXY__PYTHON_ADDR": f"127.0.0.1:{bridge}",
        "QINGYU_AI__PROXY__RATE_LIMIT": "100000",
        "QINGYU_PROXY__PORT": str(port),
        "QINGYU_PROXY__METRICS_PORT": "0",
    }
    processes.module("bridge", "bridge", env=env)
    processes.module("chat", "services.chat", env=env)
    processes.wait_ready("bridge", metrics)
    processes.module("proxy", "services.proxy", env=env)
    processes.wait_for_line("proxy", "proxy_started")
    wait_for(f"http://127.0.0.1:{port}/health", 20)
    return f"http://127.0.0.1:{port}", f"127.0.0.1:{bridge}"


def start_litellm(processes: Processes, venvs: Path, upstream: Upstream) -> str:
    """Start the peer: one worker, no logging, no database."""
    python = environment(venvs, "litellm")
    [port] = free_ports(1)
    env = {"UPSTREAM_URL": upstream.base_url, "LITELLM_LOG": "ERROR", "NO_PROXY": "127.0.0.1"}
    command = ["--config", str(HERE / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    processes.start("litellm", str(python.parent / "litellm"), *command, env=env)
    wait_for(f"http://127.0.0.1:{port}/health/liveliness", 90)
    return f"http://127.0.0.1:{port}/v1"


def measure(
    processes: Processes, names: tuple[str, ...], python: Path, client: str, url: str, model: str, load: tuple[int, int]
) -> dict[str, float]:
    """CPU seconds of one call by process, after a quarter of the load that is not counted."""
    calls, at_once = load
    size = len(ANSWER) if model == PLAIN else DELTAS * SIZE

    def run(count: int) -> None:
        command = [str(python), str(HERE / "load.py"), client, url, model, "--streams", str(count)]
        more = ["--at-once", str(at_once), "--characters", str(size)]
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)

    run(max(2, calls // 4))
    before = {name: cpu_seconds(processes.pid(name)) for name in names}
    run(calls)
    counted = calls + max(2, at_once // 4)  # the client warms up by itself, too
    return {name: (cpu_seconds(processes.pid(name)) - then) / counted for name, then in before.items()}


def first_tokens(proxy: str, bridge: str, calls: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first token, through the proxy and at the bridge, in turns."""
    ours, direct = [], []
    messages = [{"role": "user", "content": "写"}]
    channel = grpc.insecure_channel(bridge)
    stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
    with channel, httpx2.Client(trust_env=False, timeout=20) as client:
        for _ in range(calls):
            began = time.perf_counter()
            body = {"model": PLAIN, "messages": messages}
            with client.stream("POST", f"{proxy}/api/v1/ai/chat/stream", json=body) as answer:
                lines = answer.iter_lines()
                next(line for line in lines if line.startswith("data: "))
                ours.append((time.perf_counter() - began) * 1e3)
                for _ in lines:
                    pass
            request = ai.ChatRequest(model=PLAIN, messages=[common.Message(role="user", content="写")])
            began = time.perf_counter()
            for i, _chunk in enumerate(stub.ChatStream(request, timeout=20)):
                if not i:
                    direct.append((time.perf_counter() - began) * 1e3)
    return ours, direct


def show(ours: Costs, peer: Costs) -> None:
    """Print the table."""
    table = Table(
        title=f"CPU of a call in ms: {PLAIN}, and streams of {DELTAS} deltas saturated and at {PACE:g} a second",
        title_justify="left",
    )
    for head in ("", *PARTS, "ours", "LiteLLM", "times less", "target"):
        table.add_column(head, justify="left" if not head else "right")
    for model, target in TARGETS.items():
        parts, total = ours[model], sum(ours[model].values())
        other = peer.get(model, {}).get("litellm", 0.0)
        cells = [f"{parts[name] * 1e3:.2f}" for name in PARTS]
        cells += [f"{total * 1e3:.2f}", f"{other * 1e3:.1f}", f"{other / total:.1f}", f"{target:g}"]
        table.add_row(model, *cells)
    console.print(table)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="What a call through the AI Proxy costs, beside a LiteLLM proxy")
    parser.add_argument("--venvs", type=Path, default=Path("var/bench"), help="where the peers' environments are")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of calls")
    parser.add_argument("--alone", action="store_true", help="without LiteLLM")
    a = parser.parse_args()
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    big = {PLAIN: (int(1000 * a.scale), 8), SATURATED: (int(200 * a.scale), 8), PACED: (int(100 * a.scale), 50)}
    small = {PLAIN: (int(100 * a.scale), 8), SATURATED: (int(40 * a.scale), 8), PACED: (int(50 * a.scale), 50)}
    bare = environment(a.venvs, "bare")
    ours: Costs = {}
    peer: Costs = {}
    with Upstream() as upstream, Processes() as processes:
        upstream.script(PLAIN, chat(ANSWER))
        upstream.script(SATURATED, novel(DELTAS))
        upstream.script(PACED, novel(DELTAS, PACE))
        proxy, bridge = start_ours(processes, upstream)
        for model, load in big.items():
            client = "proxy-plain" if model == PLAIN else "proxy"
            ours[model] = measure(processes, PARTS, bare, client, proxy, model, load)
        through, direct = first_tokens(proxy, bridge, int(200 * a.scale))
        for name in PARTS:
            processes.stop(name)
        if not a.alone:
            url = start_litellm(processes, a.venvs, upstream)
            for model, load in small.items():
                client = "plain" if model == PLAIN else "bare"
                peer[model] = measure(processes, ("litellm",), bare, client, url, model, load)
            processes.stop("litellm")
    show(ours, peer)
    medians = statistics.median(through), statistics.median(direct)
    console.print(
        f"first token, p50 of {len(through)}: {medians[0]:.1f} ms through the proxy, {medians[1]:.1f} ms at the bridge; "
        f"added {medians[0] - medians[1]:.1f} ms (target: at most 5)"
    )


if __name__ == "__main__":
    main()
