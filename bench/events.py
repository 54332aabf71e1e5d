"""What events cost those who publish them, and how many a subscriber can read.

    python -m bench.events

Publishing: CPU of one process for each event, in a loop of its own. Streams: the same streams through a system that publishes and
one that does not, in turn; the difference is what events cost bridge and worker. Reading: events that are in the stream already.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from bench.measuring import Cost, Peer, environment, load, stream, wait_for_workers
from bench.processes import Processes
from qingyu_ai.bus import record
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import Decided, Observed
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import bus_pb2
from qingyu_ai.events import BEGINNING, subscribe
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.waiting import eventually

PARTS = ("publish", "streams")
PUBLISHED = 4_000
"""Events of each kind in a round."""

AT_ONCE = 50
"""Calls that end together."""

READ = 20_000

STREAMS, CONCURRENCY, DELTAS, PACE = 100, 50, 200, 50.0

COST = {"x-model": "m", "x-usage-prompt": "12", "x-usage-completion": "200", "x-usage-estimated": "false"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

console = Console(width=120)


def call_of(number: int) -> Observed:
    """A call of somebody."""
    envelope = Envelope(
        f"{number:032x}", f"req_{number}", Deadline.after(60), user="u1", project=f"p{number % 50}", traceparent=TRACE
    )
    return Observed("chat", "ChatStream", "", envelope, 5)


def ended(number: int) -> Decided:
    """A call that has completed."""
    held = bus_pb2.Record(state=record.DONE, at_ms=record.now_ms(), end=bus_pb2.End(count=200, trailers=COST))
    held.claims.add(worker="abc", delivery=1, at_ms=record.now_ms() - 3000)
    return Decided(call_of(number), 7, held)


async def publishing(nats: str, rounds: int) -> None:
    """Print the CPU of publishing one event."""
    settings = BusSettings(events_per_second=10**9)
    bus = await NatsBus.open([nats], "bench", on_closed=lambda: None)
    await bus.ensure_topology(settings)
    publisher = Publisher(bus, settings)
    shed: list[float] = []
    kept: list[float] = []
    number = 0
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(PUBLISHED // 100):
            for _ in range(100):
                number += 1
                publisher.started(call_of(number), "abc", 1)
            await asyncio.sleep(0)  # as a process does that has other work
        shed.append((time.process_time() - began) / PUBLISHED * 1e6)
        await eventually(lambda n=number: stored_by(bus, n), timeout=120)  # type: ignore[misc]
        calls = [ended(number + i) for i in range(PUBLISHED)]
        number += PUBLISHED
        left = iter(calls)

        async def end_some(left: Iterator[Decided] = left) -> None:
            for one in left:
                await publisher.decided(one)

        began, wall = time.process_time(), time.monotonic()
        await asyncio.gather(*(end_some() for _ in range(AT_ONCE)))
        kept.append((time.process_time() - began) / PUBLISHED * 1e6)
        rate = PUBLISHED / (time.monotonic() - wall)
    begins = time.process_time()
    for i in range(PUBLISHED):
        call_of(i)
    made = (time.process_time() - begins) / PUBLISHED * 1e6
    console.print(f"publish, may be shed: {statistics.median(shed) - made:.1f} µs of CPU an event (target: 25)")
    console.print(
        f"publish, kept until the stream has it: {statistics.median(kept):.1f} µs an event (target: 25), "
        f"{rate:.0f} a second; {publisher.shed.total()} shed"
    )
    await bus.close()


async def stored_by(bus: NatsBus, count: int) -> bool:
    """Whether the stream has so many events."""
    state = (await bus.jetstream.stream_info("AI_EVENTS")).state
    return bool(state.messages >= count)


async def reading(nats: str, rounds: int) -> None:
    """Print how many events can be read in a second."""
    bus = await NatsBus.open([nats], "bench", on_closed=lambda: None)
    info = await bus.jetstream.stream_info("AI_EVENTS")
    have = info.state.messages
    publisher = Publisher(bus, BusSettings(events_per_second=10**9))
    for number in range(max(0, READ - have)):
        publisher.started(call_of(number), "abc", 1)
        if number % 100 == 0:
            await asyncio.sleep(0.02)
    await eventually(lambda: stored_by(bus, READ), timeout=120)
    for typed, target in ((True, 5_000), (False, 20_000)):
        rates, cpu = [], []
        for _ in range(rounds):
            count = 0
            async with subscribe(nats, since=BEGINNING, typed=typed) as events:
                began, used = time.monotonic(), time.process_time()
                async for _ in events:
                    count += 1
                    if count == READ:
                        break
            rates.append(READ / (time.monotonic() - began))
            cpu.append((time.process_time() - used) / READ * 1e6)
        console.print(
            f"read, {'typed' if typed else 'raw'}: {statistics.median(rates):,.0f} events a second (target: {target:,}), "
            f"{statistics.median(cpu):.0f} µs of CPU each"
        )
    await bus.close()


async def streams(processes: Processes, rounds: int) -> None:
    """Print what events cost streams."""
    peers = [start(processes, nats, silent=silent) for nats, silent in nats_servers(processes)]
    for peer in peers:
        await wait_for_workers(peer.channel)
    table = Table(title=f"CPU of a stream of {DELTAS} deltas, µs", title_justify="left")
    for head in ("", "bridge", "worker", "both", "with events", "target"):
        table.add_column(head, justify="right" if head else "left")
    for name, pace in (("50 a second", PACE), ("as fast as it can", 0.0)):
        costs = {peer.name: Cost() for peer in peers}
        for n in range(rounds + 1):
            for peer in peers:
                into = costs[peer.name] if n else Cost()
                await load(peer, stream(peer, DELTAS, pace), STREAMS, CONCURRENCY, into, 1, 0.02 if pace else 0)
        both: dict[str, float] = {}
        for peer in peers:
            cost = costs[peer.name]
            own = [sum(pair) for pair in zip(cost.rounds["server"], cost.rounds["worker"], strict=True)]
            both[peer.name] = statistics.median(own)
            more = f"{(both[peer.name] / both['without'] - 1) * 100:+.1f} %" if peer.name != "without" else ""
            values = (cost.median("server"), cost.median("worker"), both[peer.name])
            table.add_row(f"{name}, {peer.name}", *(f"{v:,.0f}" for v in values), more, "+5 %" if more else "")
    console.print(table)


def nats_servers(processes: Processes) -> list[tuple[str, bool]]:
    """Two brokers, each with whether nobody publishes there."""
    servers = processes.nats("nats-without"), processes.nats("nats-with")
    return [(servers[0], True), (servers[1], False)]


def start(processes: Processes, nats: str, *, silent: bool) -> Peer:
    """A bridge and an echo worker."""
    port, metrics = free_ports(2)
    env = environment(nats, port, metrics, QINGYU_BRIDGE__EXPECTED_WORKERS='["chat"]', ECHO_KIND="chat")
    name = "without" if silent else "with"
    modules: dict[str, str] = {"bridge": "bridge", "chat": "bench.echo_worker"}
    for kind, module in modules.items():
        more = {**env, "BENCH_PROCESS": kind}
        processes.module(f"{kind}-{name}", "bench.without_events" if silent else module, env=more)
    processes.wait_ready(f"bridge-{name}", metrics)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    return Peer(name, channel, {"server": processes.pid(f"bridge-{name}"), "worker": processes.pid(f"chat-{name}")})


async def main(parts: Sequence[str], rounds: int) -> None:
    """Run the parts that are asked for."""
    with Processes() as processes:
        if "publish" in parts:
            nats = processes.nats()
            await publishing(nats, rounds)
            await reading(nats, rounds)
            processes.stop("nats")
        if "streams" in parts:
            await streams(processes, rounds)


def part(name: str) -> str:
    """Of the command line."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(PARTS)}")
    return name


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # Not `choices`: argparse takes none of several as one that is not among them.
    arguments.add_argument("parts", nargs="*", type=part, default=PARTS, metavar=" | ".join(PARTS))
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    uvloop.run(main(options.parts, options.rounds))
