"""What a model's answer costs: this client beside others, on the same scripted upstream in one run (`make bench`).

Each peer runs in one process and in a virtual environment of its own (made on the first run, under `--venvs`), with logging
off. CPU time is that process's own. "worker": the whole chat worker, from the upstream's bytes to the published frame, with a
nats-server and a bridge beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from bench.capacity import find_capacity
from bench.novel import SIZE, novel
from bench.processes import Processes, cpu_seconds
from qingyu_ai import routes
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from tests.upstream.process import Upstream

HERE = Path(__file__).resolve().parent / "peers"
DELTAS = 200
PACE = 50.0
SATURATED, PACED = "sat", "paced"
"""Names of the scripted models."""

Load = dict[str, tuple[int, int]]
"""By scripted model: how many streams, and how many of them at once."""

console = Console(width=130)


@dataclass
class Peer:
    """Who is measured: its name in the table, its environment's requirements, and the client that asks it."""

    name: str
    requirements: str
    client: str


PEERS = (
    Peer("bare HTTP client (httpx)", "bare", "bare"),
    Peer("this client", "", "ours"),
    Peer("openai", "openai", "openai"),
    Peer("pydantic-ai", "pydantic-ai", "pydantic-ai"),
)


def environment(venvs: Path, requirements: str) -> Path:
    """The Python of a peer, made when it is not there.

    Raises:
        subprocess.CalledProcessError: the packages cannot be had.
    """
    if not requirements:
        return Path(sys.executable)
    where = venvs / requirements
    python = where / "bin" / "python"
    wanted = (HERE / f"{requirements}.txt").read_text()
    done = where / ".wanted"
    if not done.exists() or done.read_text() != wanted:
        console.print(f"sets up {requirements} in {where}", style="dim")
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(where)], check=True)
        listed = str(HERE / f"{requirements}.txt")
        subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), "-r", listed], check=True)
        done.write_text(wanted)
    return python


def run_client(python: Path, client: str, base_url: str, model: str, streams: int, at_once: int) -> float:
    """CPU seconds of one stream."""
    command = [
        str(python), str(HERE / "load.py"), client, base_url, model, "--streams", str(streams), "--at-once", str(at_once),
        "--characters", str(DELTAS * SIZE),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    cost = json.loads(done.stdout.splitlines()[-1])
    return float(cost["cpu_seconds"]) / streams


def measure_litellm(
    processes: Processes, venvs: Path, upstream: Upstream, load: dict[str, tuple[int, int]]
) -> dict[str, float]:
    """CPU seconds of one stream in the LiteLLM proxy; a bare client asks it."""
    python = environment(venvs, "litellm")
    [port] = free_ports(1)
    env = {"UPSTREAM_URL": upstream.base_url, "LITELLM_LOG": "ERROR", "NO_PROXY": "127.0.0.1"}
    command = ["--config", str(HERE / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    processes.start("litellm", str(python.parent / "litellm"), *command, env=env)
    try:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", 90)
    except RuntimeError as e:
        raise RuntimeError(f"{e}; it said:\n{processes.log('litellm')[-2000:]}") from None
    pid, bare = processes.pid("litellm"), environment(venvs, "bare")
    costs = {}
    for model, (streams, at_once) in load.items():
        run_client(bare, "bare", f"http://127.0.0.1:{port}/v1", model, max(2, streams // 4), at_once)
        before = cpu_seconds(pid)
        run_client(bare, "bare", f"http://127.0.0.1:{port}/v1", model, streams, at_once)
        # The bare client warms up with a quarter of its streams.
        costs[model] = (cpu_seconds(pid) - before) / (streams + max(2, at_once // 4))
    processes.stop("litellm")
    return costs


def wait_for(url: str, seconds: float) -> None:
    """Wait until an address answers.

    Raises:
        RuntimeError: it does not.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            opener.open(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")


async def measure_worker(
    processes: Processes, nats: str, upstream: Upstream, load: Load
) -> dict[str, dict[str, float]]:
    """CPU seconds of one stream by process, through the whole system."""
    port, metrics = free_ports(2)
    env = {
        "NATS_URL": nats,
        "QINGYU_BRIDGE__PORT": str(port),
        "QINGYU_BRIDGE__METRICS_PORT": str(metrics),
        "QINGYU_CHAT__METRICS_PORT": "0",
        "QINGYU_CHAT__SLOTS": "1000",
        "QINGYU_LLM__MODELS": json.dumps(
            {model: {"base_url": upstream.base_url, "model": model, "connections": 1000} for model in load}
        ),
    }
    processes.module("bridge", "bridge", env=env)
    processes.module("chat", "services.chat", env=env)
    processes.wait_ready("bridge", metrics)
    costs: dict[str, dict[str, float]] = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_stream(
            routes.CHAT_STREAM.path, ai.ChatRequest.SerializeToString, ai.ChatStreamChunk.FromString
        )
        check: Any = channel.unary_unary(
            routes.HEALTH_CHECK.path, ai.HealthRequest.SerializeToString, ai.HealthResponse.FromString
        )
        for _ in range(200):
            if (await check(ai.HealthRequest(), timeout=5)).status == "healthy":
                break
            await asyncio.sleep(0.1)

        async def read(model: str) -> None:
            request = ai.ChatRequest(model=model, messages=[common.Message(role="user", content="写一章")])
            size = 0
            async for chunk in method(request, timeout=60):
                size += len(chunk.delta)
            assert size == DELTAS * SIZE, f"{size} characters"

        for model, (streams, at_once) in load.items():
            left = max(2, streams // 4)

            async def run(model: str = model) -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await read(model)

            await asyncio.gather(*(run() for _ in range(at_once)))
            before = {name: cpu_seconds(processes.pid(name)) for name in ("chat", "bridge", "nats")}
            left = streams
            await asyncio.gather(*(run() for _ in range(at_once)))
            costs[model] = {name: (cpu_seconds(processes.pid(name)) - then) / streams for name, then in before.items()}
    for name in ("chat", "bridge"):
        processes.stop(name)
    return costs


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print the table; ratios are to this client."""
    table = Table(
        title=f"One stream of {DELTAS} deltas of {SIZE} characters; CPU of one process",
        caption="target: the worker at most 40 µs a delta saturated; this client at least 5 times below openai",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for head in ("", "saturated ms", "µs/delta", "× this client", "paced 50/s ms", "µs/delta", "× this client"):
        table.add_column(head, justify="left" if not head else "right")
    base = rows["this client"]
    for name, costs in rows.items():
        cells = []
        for model in (SATURATED, PACED):
            cost = costs[model]
            cells += [f"{cost * 1e3:.2f}", f"{cost * 1e6 / DELTAS:.1f}", f"{cost / base[model]:.1f}"]
        table.add_row(name, *cells)
    console.print(table)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="What a model's answer costs, beside other clients")
    parser.add_argument("--venvs", type=Path, default=Path("var/bench"), help="where the peers' environments are")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of streams")
    parser.add_argument("--only", default="", help="peers,worker,capacity")
    a = parser.parse_args()
    only = a.only.split(",") if a.only else ["peers", "worker", "capacity"]
    load = {SATURATED: (int(200 * a.scale), 8), PACED: (int(100 * a.scale), 50)}
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    with Upstream() as upstream, Processes() as processes:
        upstream.script(SATURATED, novel(DELTAS))
        upstream.script(PACED, novel(DELTAS, PACE))
        nats = processes.nats()
        rows: dict[str, dict[str, float]] = {}
        for peer in PEERS if "peers" in only else [p for p in PEERS if p.client == "ours"]:
            python = environment(a.venvs, peer.requirements)
            rows[peer.name] = {
                model: run_client(python, peer.client, upstream.base_url, model, streams, at_once)
                for model, (streams, at_once) in load.items()
            }
        if "peers" in only:
            small = {SATURATED: (int(40 * a.scale), 8), PACED: (int(50 * a.scale), 50)}
            rows["LiteLLM proxy"] = measure_litellm(processes, a.venvs, upstream, small)
        if "worker" in only:
            parts = uvloop.run(measure_worker(processes, nats, upstream, load))
            rows["chat worker, to the published frame"] = {model: cost["chat"] for model, cost in parts.items()}
            for name in ("bridge", "nats"):
                rows[f"({name} beside it)"] = {model: cost[name] for model, cost in parts.items()}
        show(rows)
        if "capacity" in only:
            uvloop.run(find_capacity(processes, nats, upstream, console))


if __name__ == "__main__":
    main()
