"""What a search costs through gRPC, beside its own SQL sent straight to PostgreSQL; what indexing costs, and does to searches.

    python -m bench.search --text CHINESE.txt [--pieces 20000]

The sentences of the text are shuffled into documents of about 3,000 characters, all of one user; queries are parts of it. "SQL
alone": the statements of each search with their parameters, as the worker sends them, by one connection in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psycopg
import uvloop
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from bench.rag_system import RagSystem, index_all, rag_system, search_method
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import Rag
from services.llm.meters import Meters
from services.rag.database import Database
from services.rag.finding import Query
from services.rag.searching import Scope, View
from services.rag.wiring import Models, wire

USER = "measured"
DOCUMENT_CHARACTERS = 3000
SEARCHES = 120
AT_ONCE = (1, 8, 32)
BATCH = 1000

console = Console(width=120)

Statements = list[tuple[str, dict[str, Any]]]


def documents(text: str, chance: random.Random, prefix: str) -> Iterator[rag.IndexRequest]:
    """Documents of shuffled sentences, without end."""
    sentences = [one for one in re.split(r"(?<=[。！？\n])", text) if one.strip()]
    number = 0
    while True:
        number += 1
        content = ""
        while len(content) < DOCUMENT_CHARACTERS:
            content += chance.choice(sentences)
        yield rag.IndexRequest(
            document_id=f"{prefix}{number}", content=content, user_id=USER, project_id="p", content_type="chapter"
        )


def queries(text: str, chance: random.Random) -> list[str]:
    """Parts of sentences, as long as readers ask."""
    plain = re.sub(r"\s", "", text)
    return [plain[at : at + 12] for at in (chance.randrange(len(plain) - 12) for _ in range(SEARCHES))]


def request(query: str) -> rag.SearchRequest:
    """A hybrid search."""
    return rag.SearchRequest(query=query, user_id=USER, options=rag.SearchOptions(enable_hybrid=True))


def percentile(took: Sequence[float], share: float) -> float:
    """Milliseconds."""
    return sorted(took)[min(len(took) - 1, int(len(took) * share))] * 1000


async def searched(
    channel: grpc.aio.Channel, asked: Sequence[str], at_once: int, stop: asyncio.Event | None = None
) -> list[float]:
    """Search with so many callers.

    Args:
        stop: until when; None: once for each query.

    Returns:
        Seconds of each.
    """
    search, took, left = search_method(channel), [], list(asked)

    async def caller() -> None:
        while left and not (stop and stop.is_set()):
            query = left.pop()
            if stop:
                left.insert(0, query)
            began = time.perf_counter()
            await search(request(query), timeout=60)
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return took


@contextmanager
def written_down(into: list[Statements]) -> Iterator[None]:
    """Note the statements of each view."""
    rows = View._rows

    async def noted(self: View, query: str, facts: Any) -> list[Any]:
        into[-1].append((query, {**self._facts, **facts}))
        return await rows(self, query, facts)

    View._rows = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        View._rows = rows  # type: ignore[method-assign]


async def straight(dsn: str, asked: Sequence[str]) -> tuple[list[float], list[float]]:
    """Each search's statements alone, and the whole of its work in this process without bus and gRPC.

    Returns:
        Seconds of each, of the statements and of the whole.
    """
    own = Rag()
    database = Database(dsn, own)
    await database.open()
    wired = wire(database, Models(own, Meters(CollectorRegistry())), own)
    noted: list[Statements] = []
    whole: list[float] = []
    for query in asked:  # the same as in the worker, below
        await wired.service.finder.find(USER, Query(query, Scope(), hybrid=True), Deadline.after(60))
    with written_down(noted):
        for query in asked:
            noted.append([])
            began = time.perf_counter()
            await wired.service.finder.find(USER, Query(query, Scope(), hybrid=True), Deadline.after(60))
            whole.append(time.perf_counter() - began)
    alone: list[float] = []
    for statements in noted:
        began = time.perf_counter()
        async with database.tenant(USER, Deadline.after(60), snapshot=True) as connection:
            for query, facts in statements:
                await (await connection.execute(query.encode(), facts)).fetchall()
        alone.append(time.perf_counter() - began)
    await database.close()
    return alone, whole


async def measure(system: RagSystem, text: str, pieces: int) -> None:
    """Fill it, and print the tables."""
    chance = random.Random(7)
    source = documents(text, chance, "d")
    asked = queries(text, chance)
    async with system.channel() as channel:
        indexed = characters = 0
        before, began = system.cpu(), time.monotonic()
        while indexed < pieces:
            lot = [next(source) for _ in range(100)]
            answer = await index_all(channel, lot)
            assert answer.success_count == len(lot), answer
            characters += sum(len(one.content) for one in lot)
            indexed = await counted(system)
        seconds = time.monotonic() - began
        used = {name: then - before[name] for name, then in system.cpu().items()}
        console.print(
            f"indexed {characters:,} characters, {indexed:,} pieces in {seconds:.0f} s: "
            f"{characters / seconds:,.0f} characters a second; CPU seconds for a million: "
            + ", ".join(f"{name} {value / characters * 1e6:.1f}" for name, value in used.items())
        )
        system.prepared()
        await searched(channel, asked, 4)  # so that how common words are is remembered
        await show_searches(system, channel, asked)
        await beside_a_batch(channel, source, asked)


async def show_searches(system: RagSystem, channel: grpc.aio.Channel, asked: Sequence[str]) -> None:
    """Print what searches take."""
    await straight(system.worker_dsn, asked[:20])
    table = Table(title="hybrid searches, ms", title_justify="left")
    for head in ("", "p50", "p99", "worker CPU", "postgres CPU", "bridge CPU"):
        table.add_column(head, justify="right" if head else "left")
    alone, whole = await straight(system.worker_dsn, asked)
    table.add_row("its SQL alone, one connection", f"{median(alone) * 1e3:.1f}", f"{percentile(alone, 0.99):.1f}")
    table.add_row("the same with the worker's own work", f"{median(whole) * 1e3:.1f}", f"{percentile(whole, 0.99):.1f}")
    await asyncio.sleep(1)  # the processes of those connections are gone then, and count in no row below
    for at_once in AT_ONCE:
        before = system.cpu()
        took = await searched(channel, asked, at_once)
        used = {name: (then - before[name]) / len(took) * 1e3 for name, then in system.cpu().items()}
        cells = [f"{used[name]:.1f}" for name in ("rag", "postgres", "bridge")]
        table.add_row(f"gRPC, {at_once} callers", f"{median(took) * 1e3:.1f}", f"{percentile(took, 0.99):.1f}", *cells)
    console.print(table)


async def beside_a_batch(channel: grpc.aio.Channel, source: Iterator[rag.IndexRequest], asked: Sequence[str]) -> None:
    """Print what a batch does to searches."""
    quiet = await searched(channel, asked, 2)
    stop = asyncio.Event()
    searching = asyncio.ensure_future(searched(channel, asked, 2, stop))
    began = time.monotonic()
    answer = await index_all(channel, [next(source) for _ in range(BATCH)])
    seconds = time.monotonic() - began
    stop.set()
    took = await searching
    assert answer.success_count == BATCH, answer
    console.print(
        f"two callers search: p50 {median(quiet) * 1e3:.1f}, p99 {percentile(quiet, 0.99):.1f} ms; while a batch of {BATCH} "
        f"documents is indexed ({seconds:.0f} s): p50 {median(took) * 1e3:.1f}, p99 {percentile(took, 0.99):.1f} ms"
    )


async def counted(system: RagSystem) -> int:
    """Pieces that are stored."""
    async with await psycopg.AsyncConnection.connect(system.postgres.dsn("postgres")) as connection:
        row = await (await connection.execute("SELECT count(*) FROM rag.pieces")).fetchone()
    return int(row[0]) if row else 0


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="What searching and indexing cost")
    parser.add_argument("--text", type=Path, required=True, help="Chinese text, UTF-8")
    parser.add_argument("--pieces", type=int, default=20_000)
    a = parser.parse_args()
    load = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load before: {load:.1f}")
    with rag_system() as system:
        uvloop.run(measure(system, a.text.read_text(encoding="utf-8"), a.pieces))


if __name__ == "__main__":
    main()
