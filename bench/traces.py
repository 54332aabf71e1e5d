"""What traces cost: one system with them and one without, in one run; and one hook of the code where there are none.

.venv/bin/python -m bench.traces
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import timeit

import grpc
import uvloop
from rich.table import Table

from bench.measuring import Cost, alternate, chat, console, search, start_system, stream, wait_for_workers
from bench.processes import Processes
from qingyu_ai import tracing
from qingyu_ai.tracing import Kind
from tests.collector import Collector

DELTAS = 200


def hooks() -> None:
    """Print what the code does for a span that nobody records."""

    def block() -> None:
        with tracing.span("off", Kind.CLIENT):
            pass

    for name, work in (("tracing.span as a block", block), ("tracing.onward", lambda: tracing.onward("given"))):
        rounds = timeit.repeat(work, number=200_000, repeat=5)
        console.print(f"{name}, off: {statistics.median(rounds) / 200_000 * 1e9:.0f} ns")


def show(title: str, costs: dict[str, Cost]) -> None:
    """Print one table."""
    table = Table(title=title, title_justify="left")
    for head in ("", "bridge µs", "worker µs", "NATS µs", "sum µs", "calls/s"):
        table.add_column(head, justify="right" if head else "left")
    for name, cost in costs.items():
        figures = (cost.median("server"), cost.median("worker"), cost.brokers, cost.sum)
        table.add_row(name, *(f"{figure:.0f}" for figure in figures), f"{statistics.median(cost.rates):.0f}")
    console.print(table)


async def main(arguments: argparse.Namespace) -> None:
    """Measure it all."""
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, grpcio {grpc.__version__}; CPU per call")
    hooks()
    n = arguments.scale
    with Collector() as collector, Processes() as one, Processes() as other:
        off = start_system(one, [one.nats()])
        on = start_system(other, [other.nats()], QINGYU_TRACE__ENDPOINT=collector.endpoint)
        off.name, on.name = "traces off", "traces on"
        for peer in (off, on):
            await wait_for_workers(peer.channel)
        costs = await alternate([off, on], chat, int(2000 * n), 16, arguments.rounds)
        show("job row (Chat), 16 at a time: 3 spans", costs)
        costs = await alternate([off, on], lambda p: stream(p, DELTAS, 0), int(200 * n), 8, arguments.rounds)
        show(f"stream of {DELTAS} deltas, 8 at a time: 3 spans", costs)
        off.pids["worker"], on.pids["worker"] = one.pid("rag"), other.pid("rag")
        costs = await alternate([off, on], search, int(3000 * n), 16, arguments.rounds)
        show("rpc row (Search), 16 at a time: 3 spans", costs)
        await asyncio.sleep(2)
        console.print(f"{len(collector.spans)} spans came")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What traces cost")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of operations")
    parser.add_argument("--rounds", type=int, default=5)
    uvloop.run(main(parser.parse_args()))
