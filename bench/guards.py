"""What each guard of the protocol adds to a stream: with all of them, and with acknowledgements, record and log switched off one
after the other, on one NATS server and on three (`make bench`).

Each variant is a system of its own (`bench.unguarded`); their rounds alternate. CPU time of bridge, worker and all servers.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import grpc
import uvloop
from rich.table import Table

from bench.measuring import (
    BROKER,
    DELTA,
    STREAM_DELTAS,
    Cost,
    Operation,
    Peer,
    console,
    environment,
    load,
    stream,
    wait_for_workers,
)
from bench.processes import Processes
from bench.unguarded import PROCESS, WITHOUT
from qingyu_ai.cli.preflight import free_ports

VARIANTS = {
    "all guards": "",
    "no acks": "acks",
    "nor record": "acks,record",
    "nor log": "acks,record,log",
}

TARGET = 1.2
"""All guards, of what the stream costs without any."""


def start(processes: Processes, nats: list[str], name: str, without: str, replicas: int) -> Peer:
    """Start a bridge and a worker on servers that run."""
    port, metrics = free_ports(2)
    env = {
        **environment(",".join(nats), port, metrics, QINGYU_BUS__REPLICAS=str(replicas)),
        "QINGYU_BRIDGE__EXPECTED_WORKERS": '["chat"]',
        WITHOUT: without,
    }
    processes.module(f"bridge {name}", "bench.unguarded", env={**env, PROCESS: "bridge"})
    processes.module(f"worker {name}", "bench.unguarded", env={**env, PROCESS: "worker"})
    processes.wait_ready(f"bridge {name}", metrics, seconds=60)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    return Peer(name, channel, {"bridge": processes.pid(f"bridge {name}"), "worker": processes.pid(f"worker {name}")})


async def measure(servers: int, rounds: int, scale: float) -> None:
    """Print the tables of one number of servers."""
    costs: dict[str, dict[str, Cost]] = {"saturated": {}, "paced": {}}
    for _ in range(rounds):
        for name, without in VARIANTS.items():
            # A system at a time: an idle one beside would still look at its streams, and be paid for.
            with Processes() as processes:
                nats = [processes.nats()] if servers == 1 else processes.cluster(servers)
                peer = start(processes, nats, name, without, servers)
                await wait_for_workers(peer.channel)
                peer.pids |= {role: processes.pid(role) for role in processes.names if role.startswith(BROKER)}
                for kind, operation, count, at_once, deltas in kinds(peer, scale):
                    await load(peer, operation, at_once, at_once, Cost())
                    await load(peer, operation, count, at_once, costs[kind].setdefault(name, Cost()), deltas, 0.0037)
                await peer.channel.close()
    for kind, found in costs.items():
        show(f"{kind}, {servers} NATS server{'s' if servers > 1 else ''}", found)


def kinds(peer: Peer, scale: float) -> list[tuple[str, Operation, int, int, int]]:
    """(name, operation, how many, how many at a time, deltas of each)."""
    return [
        ("saturated", stream(peer, STREAM_DELTAS, 0), int(300 * scale), 8, STREAM_DELTAS),
        ("paced", stream(peer, STREAM_DELTAS, 50), 50, 50, STREAM_DELTAS),
    ]


def show(title: str, costs: dict[str, Cost]) -> None:
    """Print one table."""
    table = Table(
        title=f"stream of {STREAM_DELTAS} deltas of {len(DELTA)} characters, {title}: CPU µs a delta",
        caption=f"target: all guards at most {TARGET} of none, in sum",
        title_justify="left",
        caption_justify="left",
    )
    for head in ("", "bridge", "worker", "NATS", "sum", "of none", "messages/op"):
        table.add_column(head, justify="left" if not head else "right")
    none = costs[list(VARIANTS)[-1]].sum
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{cost.median('bridge'):.1f}",
            f"{cost.median('worker'):.1f}",
            f"{cost.brokers:.1f}",
            f"{cost.sum:.1f}",
            f"{cost.sum / none:.2f}",
            f"{statistics.median(cost.messages):.1f}",
        )
    console.print(table)
    console.print()


async def main(arguments: argparse.Namespace) -> None:
    """Measure on one server and on three."""
    for servers in [int(n) for n in arguments.servers.split(",")]:
        await measure(servers, arguments.rounds, arguments.scale)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", default="1,3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of saturated streams")
    chosen = parser.parse_args()
    uvloop.run(main(chosen))
    sys.exit(0)
