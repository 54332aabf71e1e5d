"""What the benches of calls have in common: systems to measure, their loads, and what a round of them costs.

CPU time is read from the scheduler before and after each round; the rounds of several systems alternate.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from rich.console import Console

from bench.processes import Processes, cpu_seconds
from qingyu_ai import routes
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag

DELTA = "黛玉"
"""About what a model says at once."""

STREAM_DELTAS = 200

console = Console(width=140)


@dataclass
class Peer:
    """A server to measure: its channel, and the processes behind it by role."""

    name: str
    channel: grpc.aio.Channel
    pids: dict[str, int]
    metadata: Callable[[], tuple[tuple[str, str], ...]] = lambda: ()

    def method(self, route: routes.Route[Any, Any]) -> Any:
        """A client of one row."""
        make = self.channel.unary_stream if isinstance(route, routes.StreamJob) else self.channel.unary_unary
        return make(route.path, route.request.SerializeToString, route.reply.FromString)


BROKER = "nats"
"""How the roles of all NATS servers begin."""


@dataclass
class Cost:
    """CPU microseconds per operation by role, one entry for each round; and stream messages per operation."""

    rounds: dict[str, list[float]] = field(default_factory=dict)
    messages: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    deltas: int = 0
    """Of one operation."""

    def median(self, role: str) -> float:
        """Of one process."""
        return statistics.median(self.rounds[role])

    @property
    def sum(self) -> float:
        """Of all processes."""
        return self._together(list(self.rounds))

    @property
    def brokers(self) -> float:
        """Of all NATS servers; 0: there are none."""
        return self._together([role for role in self.rounds if role.startswith(BROKER)])

    def _together(self, roles: list[str]) -> float:
        totals = [sum(values) for values in zip(*(self.rounds[role] for role in roles), strict=True)]
        return float(statistics.median(totals)) if totals else 0.0


Operation = Callable[[], Awaitable[int]]
"""One operation; returns how many stream messages came."""


async def load(
    peer: Peer, operation: Operation, count: int, concurrency: int, cost: Cost, per: int = 1, spread: float = 0
) -> None:
    """One round: `count` operations, `concurrency` at a time; costs are divided by `count * per`.

    Args:
        spread: seconds between the starts of the first operations.
    """
    before = {role: cpu_seconds(pid) for role, pid in peer.pids.items()}
    began = time.monotonic()
    left, messages = count, 0

    async def run(number: int) -> None:
        nonlocal left, messages
        # Streams that start together would all tick together, which no crowd of writers does.
        await asyncio.sleep(number * spread)
        while left > 0:
            left -= 1
            came = await operation()
            messages += came

    await asyncio.gather(*(run(i) for i in range(concurrency)))
    seconds = time.monotonic() - began
    for role, pid in peer.pids.items():
        used = (cpu_seconds(pid) - before[role]) * 1e6
        cost.rounds.setdefault(role, []).append(used / (count * per))
    cost.messages.append(messages / count)
    cost.rates.append(count / seconds)
    cost.deltas = per


def search(peer: Peer) -> Operation:
    """An rpc row."""
    method = peer.method(routes.SEARCH)
    request = rag.SearchRequest(query="黛玉葬花", user_id="u1", project_id="p1")

    async def call() -> int:
        await method(request, timeout=30, metadata=peer.metadata())
        return 0

    return call


def chat(peer: Peer) -> Operation:
    """A job row."""
    method = peer.method(routes.CHAT)
    request = ai.ChatRequest(messages=[common.Message(role="user", content="黛玉为何葬花？")])

    async def call() -> int:
        await method(request, timeout=30, metadata=peer.metadata())
        return 0

    return call


def stream(peer: Peer, deltas: int, per_second: float) -> Operation:
    """A streaming job row."""
    method = peer.method(routes.CHAT_STREAM)
    context = {"deltas": str(deltas), "per_second": str(per_second)}
    request = ai.ChatRequest(messages=[common.Message(role="user", content=DELTA)], context=context)

    async def call() -> int:
        count = size = 0
        async for chunk in method(request, timeout=120, metadata=peer.metadata()):
            count += 1
            size += len(chunk.delta)
        assert size == deltas * len(DELTA), f"{size} characters of {deltas * len(DELTA)}"
        return count

    return call


async def alternate(
    peers: list[Peer],
    make: Callable[[Peer], Operation],
    count: int,
    concurrency: int,
    rounds: int,
    per: int = 1,
    spread: float = 0,
) -> dict[str, Cost]:
    """Rounds of all peers in turn, after one that is not counted."""
    costs = {peer.name: Cost() for peer in peers}
    for peer in peers:
        await load(peer, make(peer), max(concurrency, count // 4), concurrency, Cost(), 1, spread)
    for _ in range(rounds):
        for peer in peers:
            await load(peer, make(peer), count, concurrency, costs[peer.name], per, spread)
    return costs


def environment(nats: str, port: int, metrics: int, **more: str) -> dict[str, str]:
    """Settings of the processes of one system."""
    return {
        "NATS_URL": nats,
        "QINGYU_BRIDGE__PORT": str(port),
        "QINGYU_BRIDGE__METRICS_PORT": str(metrics),
        "QINGYU_BRIDGE__EXPECTED_WORKERS": '["chat","rag"]',
        "QINGYU_CHAT__METRICS_PORT": "0",
        "QINGYU_CHAT__SLOTS": "4000",
        **more,
    }


async def wait_for_workers(channel: grpc.aio.Channel) -> None:
    """Wait until the bridge sees its workers."""
    check = channel.unary_unary(
        routes.HEALTH_CHECK.path, ai.HealthRequest.SerializeToString, ai.HealthResponse.FromString
    )
    for _ in range(100):
        if (await check(ai.HealthRequest(), timeout=5)).status == "healthy":
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the workers did not come up")


def start_system(processes: Processes, nats: Sequence[str], suffix: str = "", **more: str) -> Peer:
    """Start a bridge and two echo workers on servers that run."""
    port, metrics = free_ports(2)
    env = environment(",".join(nats), port, metrics, QINGYU_BUS__REPLICAS=str(len(nats)), **more)
    processes.module(f"bridge{suffix}", "bridge", env=env)
    processes.module(f"chat{suffix}", "bench.echo_worker", env={**env, "ECHO_KIND": "chat"})
    processes.module(f"rag{suffix}", "bench.echo_worker", env={**env, "ECHO_KIND": "rag"})
    processes.wait_ready(f"bridge{suffix}", metrics)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    pids = {
        "server": processes.pid(f"bridge{suffix}"),
        "worker": processes.pid(f"chat{suffix}"),
        **{role: processes.pid(role) for role in processes.names if role.startswith(BROKER)},
    }
    return Peer("bridge", channel, pids)
