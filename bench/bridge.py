"""What a call costs: the bridge beside a direct gRPC server that does the same echo, in one run (`make bench`).

CPU time is read from the scheduler before and after each round; the rounds of the two systems alternate, and the median
round is shown. "sum" adds bridge, NATS and worker. Latencies are measured one call at a time, on an otherwise idle system.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
import uvloop
from rich.table import Table

from bench.measuring import (
    DELTA,
    STREAM_DELTAS,
    Cost,
    Operation,
    Peer,
    alternate,
    chat,
    console,
    environment,
    search,
    start_system,
    stream,
    wait_for_workers,
)
from bench.processes import Processes, resident_bytes
from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common


def show(title: str, unit: str, costs: dict[str, Cost], base: str, target: str, note: str = "") -> None:
    """Print one table."""
    table = Table(title=title, caption=f"target: {target}. {note}", title_justify="left", caption_justify="left")
    costly = (f"server µs/{unit}", "ratio", "NATS", "worker", "sum", "ratio of sum")
    for head in ("", *costly, "messages/op", "deltas/message", "op/s"):
        table.add_column(head, justify="left" if not head else "right")
    direct = costs[base].median("server")
    for name, cost in costs.items():
        server, messages = cost.median("server"), statistics.median(cost.messages)
        table.add_row(
            name,
            f"{server:.1f}",
            f"{server / direct:.2f} (1/{direct / server:.1f})",
            f"{cost.brokers:.1f}" if cost.brokers else "–",
            f"{cost.median('worker'):.1f}" if "worker" in cost.rounds else "–",
            f"{cost.sum:.1f}",
            f"{cost.sum / direct:.2f} (1/{direct / cost.sum:.1f})",
            f"{messages:.1f}" if messages else "–",
            f"{cost.deltas / messages:.1f}" if messages else "–",
            f"{statistics.median(cost.rates):.0f}",
        )
    console.print(table)
    console.print()


async def latency(operation: Callable[[], Awaitable[float]], count: int) -> tuple[float, float]:
    """p50 and p99 of `count` calls in milliseconds, one at a time."""
    for _ in range(count // 10):
        await operation()
    times = sorted([await operation() * 1000 for _ in range(count)])
    return statistics.median(times), times[int(len(times) * 0.99)]


def timed(operation: Operation) -> Callable[[], Awaitable[float]]:
    """Seconds of a whole operation."""

    async def call() -> float:
        began = time.perf_counter()
        await operation()
        return time.perf_counter() - began

    return call


def first_chunk(peer: Peer) -> Callable[[], Awaitable[float]]:
    """Seconds to the first chunk of a stream, whose rest is read too."""
    method = peer.method(routes.CHAT_STREAM)
    request = ai.ChatRequest(messages=[common.Message(role="user", content=DELTA)], context={"deltas": "3"})

    async def call() -> float:
        began = time.perf_counter()
        first = 0.0
        async for _ in method(request, timeout=30, metadata=peer.metadata()):
            first = first or time.perf_counter() - began
        return first

    return call


async def latencies(peers: list[Peer], count: int) -> None:
    """Print the unloaded latencies."""
    table = Table(title="Unloaded latency, ms", title_justify="left", caption_justify="left",
                  caption="targets at p50 above direct: rpc 1 ms, job 3 ms, first chunk 4 ms")  # fmt: skip
    for head in ("", "p50", "p99", "above direct (p50)"):
        table.add_column(head, justify="left" if not head else "right")
    kinds: list[tuple[str, Callable[[Peer], Callable[[], Awaitable[float]]]]] = [
        ("rpc row", lambda p: timed(search(p))),
        ("job row", lambda p: timed(chat(p))),
        ("first chunk", first_chunk),
    ]
    for name, make in kinds:
        base = 0.0
        for peer in peers:
            p50, p99 = await latency(make(peer), count)
            base = base or p50
            table.add_row(
                f"{name}, {peer.name}", f"{p50:.2f}", f"{p99:.2f}", f"{p50 - base:.2f}" if p50 != base else ""
            )
    console.print(table)
    console.print()


async def idle_streams(peer: Peer, count: int) -> None:
    """Print what open streams that say nothing cost in memory."""
    method = peer.method(routes.CHAT_STREAM)
    request = ai.ChatRequest(messages=[common.Message(role="user", content=DELTA)], context={"silent_seconds": "600"})
    pid = peer.pids["server"]
    before = resident_bytes(pid)
    calls = [method(request, timeout=900) for _ in range(count)]
    for call in calls:
        await call.initial_metadata()
    await asyncio.sleep(12)  # beats of all of them, several times
    after = resident_bytes(pid)
    for call in calls:
        call.cancel()
    await asyncio.sleep(1)
    console.print(
        f"{count} idle streams: bridge from {before / 2**20:.1f} to {after / 2**20:.1f} MiB resident, "
        f"{(after - before) / count / 1024:.1f} KiB each (target: at most 64); "
        f"{resident_bytes(pid) / 2**20:.1f} MiB after they were cancelled\n"
    )


def start_direct(processes: Processes, name: str, *arguments: str) -> Peer:
    """Start a direct server."""
    processes.module(name, "bench.direct", *arguments)
    port = processes.wait_for_line(name, "")
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    return Peer(name, channel, {"server": processes.pid(name)})


async def main(arguments: argparse.Namespace) -> None:
    """Measure everything."""
    n = arguments.scale
    console.print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, grpcio {grpc.__version__}; CPU time per operation; "
        f"{arguments.servers} NATS server{'s' if arguments.servers > 1 else ''}\n"
    )
    with Processes() as processes:
        direct, bare = start_direct(processes, "direct"), start_direct(processes, "direct, no request id", "--bare")
        nats = [processes.nats()] if arguments.servers == 1 else processes.cluster(arguments.servers)
        bridge = start_system(processes, nats)
        await wait_for_workers(bridge.channel)
        rpc = Peer("bridge", bridge.channel, {**bridge.pids, "worker": processes.pid("rag")})
        only = arguments.only.split(",") if arguments.only else ["rpc", "job", "stream", "paced", "latency", "idle"]
        if "rpc" in only:
            costs = await alternate([direct, bare, rpc], search, int(3000 * n), 16, arguments.rounds)
            show("rpc row (Search), 16 at a time", "call", costs, "direct", "at most 1.15")
        if "job" in only:
            made = Peer("bridge, request id made by it", bridge.channel, bridge.pids)
            numbers = iter(range(10**9))
            run = f"{time.time_ns()}"
            chosen = Peer(
                "bridge, request id of the caller's", bridge.channel, bridge.pids,
                lambda: (("x-request-id", f"bench-{run}-{next(numbers)}"),),
            )  # fmt: skip
            costs = await alternate([direct, bare, made, chosen], chat, int(2000 * n), 16, arguments.rounds)
            show("job row (Chat), 16 at a time", "call", costs, "direct", "at most 1.8")
        if "stream" in only:
            unmerged = start_system(processes, nats, "-unmerged", QINGYU_BUS__MERGE="false")
            unmerged.name = "bridge, merging off"
            processes.stop("chat")  # one queue, one kind of worker at a time
            await wait_for_workers(unmerged.channel)
            costs = await alternate(
                [unmerged], lambda p: stream(p, STREAM_DELTAS, 0), int(120 * n), 8, arguments.rounds, STREAM_DELTAS
            )
            processes.stop("chat-unmerged")
            processes.stop("rag-unmerged")
            processes.stop("bridge-unmerged")
            env = environment(",".join(nats), 0, 0)
            processes.module("chat", "bench.echo_worker", env={**env, "ECHO_KIND": "chat"})
            bridge.pids["worker"] = processes.pid("chat")
            await wait_for_workers(bridge.channel)
            costs |= await alternate(
                [direct, bridge],
                lambda p: stream(p, STREAM_DELTAS, 0),
                int(300 * n),
                8,
                arguments.rounds,
                STREAM_DELTAS,
            )
            costs = {name: costs[name] for name in ("direct", "bridge", "bridge, merging off")}
            show(
                f"saturated stream of {STREAM_DELTAS} deltas of {len(DELTA)} characters, 8 at a time", "delta", costs, "direct",
                "server at most 1/10, sum at most 1/4", "messages/op: stream messages for 201 deltas",
            )  # fmt: skip
        if "paced" in only:
            seconds = 8
            costs = await alternate(
                [direct, bridge],
                lambda p: stream(p, 50 * seconds, 50),
                100,
                100,
                max(1, arguments.rounds - 1),
                50 * seconds,
                spread=0.0037,
            )
            title = f"100 streams at 50 deltas of {len(DELTA)} characters a second, for {seconds} s"
            show(title, "delta", costs, "direct", "server at most 1.5")
        if "latency" in only:
            await latencies([direct, bridge], int(500 * n))
        if "idle" in only:
            await idle_streams(bridge, 1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a call costs, beside a direct gRPC server")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of operations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--servers", type=int, default=1, help="of NATS; more than one are a cluster with as many copies"
    )
    parser.add_argument("--only", default="", help="rpc,job,stream,paced,latency,idle")
    uvloop.run(main(parser.parse_args()))
