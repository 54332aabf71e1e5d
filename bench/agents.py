"""What an agent stream costs, from the upstream's bytes to the reader, and whether many at once keep their pace.

    python -m bench.agents

60 streams of 50 deltas a second through one bridge, by a gRPC client, and 200 read at the bus; one agent worker each. Every
stream calls no tool: those are other processes' work. CPU is each process's own. Then the same agent worker beside pydantic-ai's
own loop on the same upstream, as fast as they can and paced; `--no-peer` leaves that out (its
environment is made on the first run).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from bench.models import environment, run_client
from bench.novel import SIZE, novel
from bench.processes import Processes, cpu_seconds
from qingyu_ai import routes
from qingyu_ai.bus import subjects
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.discovery import Presence
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.settings import Bus as BusSettings
from tests.upstream.process import Upstream

PACE = 50.0
SECONDS = 10
DELTAS = int(PACE * SECONDS)
AT_GRPC, AT_BUS = 60, 200

LATE_SECONDS = 0.3
"""What ten seconds of a stream may take longer."""

PEER_LOADS = {"saturated": (200, 8), "paced": (100, 50)}
"""By scripted model: streams, and how many of them at once."""

PEER_DELTAS = 200

Read = Callable[[int], Awaitable[tuple[int, float]]]
"""(number of the stream) → characters, and when the first ones came, `time.monotonic()`."""

console = Console(width=130)


def asked(number: int, model: str = "novel") -> ai.AgentRequest:
    """A request."""
    options = ai.AgentOptions(model=model)
    return ai.AgentRequest(agent_type="creative", task=f"写一章（{number}）", user_id=f"u{number}", options=options)


async def run(read: Read, streams: int) -> tuple[float, float, float]:
    """Read so many streams at once, which begin within one delta's time of each other.

    Returns:
        Seconds: until the last of them had begun to speak; and how much longer than its pace allows the slowest one and the
        middle one took from their first characters to their end.
    """

    async def one(number: int) -> tuple[float, float]:
        await asyncio.sleep(number / streams / PACE)
        began = time.monotonic()
        size, first = await read(number)
        assert size == DELTAS * SIZE, "the text is not whole"
        return first - began, time.monotonic() - first - (DELTAS - 1) / PACE

    found = await asyncio.gather(*(one(number) for number in range(streams)))
    late = sorted(one for _, one in found)
    return max(start for start, _ in found), late[-1], late[len(late) // 2]


async def over_grpc(port: int, processes: Processes, table: Table) -> None:
    """The whole way."""
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        method = channel.unary_stream(
            routes.EXECUTE_AGENT_STREAM.path, ai.AgentRequest.SerializeToString, ai.AgentStreamChunk.FromString
        )

        async def read(number: int) -> tuple[int, float]:
            size, status, first = 0, "", 0.0
            async for chunk in method(asked(number), timeout=60, wait_for_ready=True):
                size += len(chunk.delta)
                first = first or time.monotonic()
                status = chunk.metadata["status"] if chunk.is_final else ""
            assert status == "completed", status
            return size, first

        await measured("gRPC client", read, AT_GRPC, ("agent", "bridge", "nats"), processes, table)


async def at_bus(nats: str, processes: Processes, table: Table) -> None:
    """Without a bridge."""
    bus = await NatsBus.open([nats], "bridge", on_closed=lambda: None)
    presence = Presence(bus, f"{bus.inbox}.srv.presence")
    caller = Caller(bus, BusSettings(), presence)
    await presence.start()
    await caller.start()

    async def read(number: int) -> tuple[int, float]:
        route, body = routes.EXECUTE_AGENT_STREAM, asked(number).SerializeToString()
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        call = subjects.call_id(f"u{number}", route.method, f"bench{number}-{time.monotonic_ns()}")
        envelope = Envelope(call, f"bench{number}", Deadline.after(60), user=f"u{number}", digest=digest)
        reading = await caller.submit(route, route.subject_of(asked(number)), body, envelope, chosen=False)
        size, first = 0, 0.0
        while taken := await reading.take():
            first = first or time.monotonic()
            size += sum(len(ai.AgentStreamChunk.FromString(encoded).delta) for encoded, _ in taken)
            caller.credit(reading)
        caller.close(reading)
        return size, first

    await measured("reader at the bus", read, AT_BUS, ("agent", "nats"), processes, table)
    await caller.stop()
    await presence.stop()
    await bus.close()


async def measured(
    name: str, read: Read, streams: int, watched: tuple[str, ...], processes: Processes, table: Table
) -> None:
    """One row: after a run that warms up, one that counts."""
    await run(read, max(4, streams // 10))
    before = {one: cpu_seconds(processes.pid(one)) for one in watched}
    start, worst, middle = await run(read, streams)
    deltas = streams * DELTAS
    used = {one: (cpu_seconds(processes.pid(one)) - then) / deltas * 1e6 for one, then in before.items()}
    costs = [f"{used[one]:.0f}" if one in used else "–" for one in ("agent", "bridge", "nats")]
    held = "holds" if worst <= LATE_SECONDS else "behind"
    table.add_row(
        f"{streams} streams, {name}", *costs, f"{start * 1e3:.0f}", f"{worst * 1e3:.0f}", f"{middle * 1e3:.0f}", held
    )


async def beside_peer(port: int, processes: Processes, upstream: Upstream, venvs: Path) -> None:
    """The whole agent worker, to the stored frame, beside the loop of pydantic-ai alone."""
    table = Table(title=f"One agent's stream of {PEER_DELTAS} deltas, CPU of one process", title_justify="left")
    for head in ("", "agent worker µs/delta", "pydantic-ai µs/delta", "ratio"):
        table.add_column(head, justify="right" if head else "left")
    peer = environment(venvs, "pydantic-ai")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_stream(
            routes.EXECUTE_AGENT_STREAM.path, ai.AgentRequest.SerializeToString, ai.AgentStreamChunk.FromString
        )
        for model, (streams, at_once) in PEER_LOADS.items():
            left = 0

            async def read(model: str = model) -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    parts = [chunk.delta async for chunk in method(asked(left, model), timeout=60)]
                    assert len("".join(parts)) == PEER_DELTAS * SIZE, "the text is not whole"

            async def load(streams: int, at_once: int = at_once, read: Callable[[], Awaitable[None]] = read) -> None:
                nonlocal left
                left = streams
                await asyncio.gather(*(read() for _ in range(at_once)))

            await load(max(2, at_once // 4))
            before = cpu_seconds(processes.pid("agent"))
            await load(streams)
            ours = (cpu_seconds(processes.pid("agent")) - before) / streams / PEER_DELTAS * 1e6
            cost = await asyncio.to_thread(
                run_client, peer, "pydantic-ai", upstream.base_url, model, streams, at_once
            )  # fmt: skip
            theirs = cost / PEER_DELTAS * 1e6
            table.add_row(f"{model}, {at_once} at once", f"{ours:.1f}", f"{theirs:.0f}", f"{theirs / ours:.1f}")
    console.print(table)


async def measure(processes: Processes, upstream: Upstream, venvs: Path | None) -> None:
    """Measure all."""
    upstream.script("novel", novel(DELTAS, PACE))
    upstream.script("saturated", novel(PEER_DELTAS))
    upstream.script("paced", novel(PEER_DELTAS, PACE))
    nats = processes.nats()
    port, metrics = free_ports(2)
    models = {
        name: {"base_url": upstream.base_url, "model": name, "connections": 1000} for name in ("novel", *PEER_LOADS)
    }
    env = {
        "NATS_URL": nats,
        "QINGYU_BRIDGE__PORT": str(port),
        "QINGYU_BRIDGE__METRICS_PORT": str(metrics),
        "QINGYU_BRIDGE__EXPECTED_WORKERS": '["agent"]',
        "QINGYU_AGENT__METRICS_PORT": "0",
        "QINGYU_AGENT__SLOTS": "1000",
        "QINGYU_LLM__MODELS": json.dumps(models),
    }
    processes.module("bridge", "bridge", env=env)
    processes.module("agent", "services.agent", env=env)
    processes.wait_ready("bridge", metrics)
    processes.wait_for_line("agent", "worker_started")
    await asyncio.sleep(1)
    table = Table(title=f"Agent streams of {DELTAS} deltas, {PACE:g} a second", title_justify="left")
    for head in ("", "agent µs/delta", "bridge µs/delta", "nats µs/delta", "start ms", "late ms", "middle ms", ""):
        table.add_column(head, justify="right" if head else "left")
    await over_grpc(port, processes, table)
    await at_bus(nats, processes, table)
    console.print(table)
    if venvs is not None:
        await beside_peer(port, processes, upstream, venvs)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description="What an agent stream costs")
    parser.add_argument("--venvs", type=Path, default=Path("var/bench"), help="where the peer's environment is")
    parser.add_argument("--no-peer", action="store_true", help="measure this project alone")
    a = parser.parse_args()
    load = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load before: {load:.1f}\n")
    with Upstream() as upstream, Processes() as processes:
        uvloop.run(measure(processes, upstream, None if a.no_peer else a.venvs))


if __name__ == "__main__":
    main()
