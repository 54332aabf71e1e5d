"""What the store of documents costs: writing, searching by words and by meaning, for one user with many pieces.

    python -m bench.rag_store --text CHINESE.txt [--pieces 20000] [--dimension 512]

The sentences of the text are shuffled into pieces of about 400 characters; terms are pairs of neighbouring characters. Vectors
are random around a few hundred centres: their distances cost what those of a model cost; what they find means nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import psycopg

from bench import rag_candidates
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.handler import Submission
from qingyu_ai.settings import Rag
from services.rag.database import WORKER_ROLE, Database
from services.rag.migrate import migrate
from services.rag.searching import Reader, Scope
from services.rag.store import Store
from services.rag.stored import Document, Model, Piece, unit
from tests.postgres import PostgresProcess

PIECES_OF_A_DOCUMENT = 8
PIECE_CHARACTERS = 400
CENTRES = 300
QUERIES = 60
USER = "measured"


def terms(text: str) -> list[str]:
    """Pairs of neighbouring characters."""
    return [run[i : i + 2] for run in re.findall(r"[\u4e00-\u9fff]+", text) for i in range(len(run) - 1)]


def documents(text: str, chance: random.Random) -> Iterator[list[Piece]]:
    """Documents of shuffled sentences, without end."""
    sentences = [one for one in re.split(r"(?<=[。！？\n])", text) if one.strip()]
    while True:
        pieces: list[Piece] = []
        for n in range(PIECES_OF_A_DOCUMENT):
            piece = ""
            while len(piece) < PIECE_CHARACTERS:
                piece += chance.choice(sentences)
            pieces.append(Piece(n, 0, len(piece), piece, terms(piece)))
        yield pieces


class Vectors:
    """Random vectors around centres."""

    def __init__(self, dimension: int, chance: random.Random) -> None:
        self._chance = chance
        self._centres = [[chance.gauss(0, 1) for _ in range(dimension)] for _ in range(CENTRES)]

    def one(self) -> list[float]:
        """Make one."""
        return [x + self._chance.gauss(0, 0.7) for x in self._chance.choice(self._centres)]


class Watch:
    """Times what a worker does, and counts what it costs the server: on a busy machine only the latter says much."""

    def __init__(self, server: PostgresProcess) -> None:
        self._server = psutil.Process(server.pid)

    async def timed(
        self, name: str, each: Callable[[], Awaitable[object]], times: int, prepare: Callable[[], None] = lambda: None
    ) -> None:
        """Print the middle and the slow end of some runs, and the CPU of one.

        Args:
            prepare: done before each run, and not counted.
        """
        took, before = [], self._cpu()
        for _ in range(times):
            prepare()
            began = time.perf_counter()
            await each()
            took.append((time.perf_counter() - began) * 1000)
        cpu = (self._cpu() - before) / times * 1000
        took.sort()
        middle, slow = statistics.median(took), took[int(len(took) * 0.95)]
        print(f"{name:52} p50 {middle:7.1f} ms   p95 {slow:7.1f} ms   server {cpu:7.1f} ms of CPU", flush=True)

    def _cpu(self) -> float:
        return sum(times.user + times.system for times in (one.cpu_times() for one in self._server.children()))


async def measure(server: PostgresProcess, arguments: argparse.Namespace) -> None:
    """Fill a database and time what a worker does."""
    owner, worker = server.dsn("postgres"), server.dsn("postgres", "worker", WORKER_ROLE)
    migrate(owner, worker)
    text, chance = arguments.text, random.Random(7)
    model, own = Model("random", arguments.dimension), Rag()
    vectors, source = Vectors(model.dimension, chance), documents(text, chance)
    database, watch = Database(worker, own), Watch(server)
    await database.open()
    store, reader, written = Store(database, own), Reader(database, own), 0
    pieces, made = next(source), [vectors.one()]

    def prepare() -> None:
        nonlocal pieces, made, written
        pieces, written = next(source), written + 1
        made = [vectors.one() for _ in pieces]

    async def write() -> None:
        document = Document(f"d{written % 2500}", f"p{written % 10}", "chapter", {"volume": str(written % 20)})
        await store.put(USER, document, pieces, {model: made}, model, Submission(1, written), Deadline.after(60))

    count = arguments.pieces // PIECES_OF_A_DOCUMENT
    began = time.perf_counter()
    await watch.timed(f"write a document of {PIECES_OF_A_DOCUMENT} pieces, one caller", write, count, prepare)
    print(f"{arguments.pieces} pieces in {time.perf_counter() - began:.0f} s", flush=True)
    await watch.timed("write it again in place of another version", write, 100, prepare)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        for table in ("pieces", "postings", "vectors"):
            row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (f"rag.{table}",)).fetchone()
            print(f"rag.{table:46} {(row or [0])[0] / 2**20:8.0f} MiB")

    queries = [_part(text, 12, chance) for _ in range(QUERIES)]
    for name, scope in (
        ("", Scope()),
        (" of one project in ten", Scope("p3")),
        (" of two filters", Scope("", ("chapter",), {"volume": "3"})),
    ):
        await _searches(watch, reader, scope, name, queries, model, vectors)
    long = "".join(_part(text, 12, chance) for _ in range(834))[:10_000]

    async def ask_long() -> None:
        async with reader.view(USER, Scope(), Deadline.after(60)) as view:
            await view.by_words(terms(long), 100)

    await watch.timed("by words, a query of 10,000 characters", ask_long, 5)
    await database.close()
    if arguments.alternatives:
        rag_candidates.measure(owner, USER, [terms(query) for query in queries])
    if arguments.hnsw:
        _nearest(owner, model, vectors)


async def _searches(
    watch: Watch, reader: Reader, scope: Scope, name: str, queries: list[str], model: Model, vectors: Vectors
) -> None:
    at = iter(queries * 3)

    async def words() -> None:
        async with reader.view(USER, scope, Deadline.after(60)) as view:
            await view.by_words(terms(next(at)), 100)

    async def meaning() -> None:
        async with reader.view(USER, scope, Deadline.after(60)) as view:
            await view.by_vector(model, vectors.one(), 100)

    async def both() -> None:
        async with reader.view(USER, scope, Deadline.after(60)) as view:
            worded = await view.by_words(terms(next(at)), 100)
            near = await view.by_vector(model, vectors.one(), 100)
            keys = [one.key for one in worded.pieces[:20]] + [one.key for one in near[:20]]
            await view.show(keys)

    await watch.timed(f"by words, 12 characters{name}", words, QUERIES)
    await watch.timed(f"by meaning, all of the user's vectors{name}", meaning, QUERIES)
    await watch.timed(f"both, and 40 pieces shown{name}", both, QUERIES)


def _nearest(owner: str, model: Model, vectors: Vectors) -> None:
    """What an approximate index for this one user would give and take: built by hand, as the store has none."""
    with psycopg.connect(owner, autocommit=True) as connection:
        began = time.perf_counter()
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute(
            f"CREATE INDEX near ON rag.vectors USING hnsw ((embedding::vector({model.dimension})) vector_ip_ops) "
            f"WHERE user_id = '{USER}'".encode()
        )
        row = connection.execute("SELECT pg_relation_size('rag.near')").fetchone()
        print(f"HNSW built in {time.perf_counter() - began:.0f} s, {(row or [0])[0] / 2**20:.0f} MiB")
        asked = [unit(vectors.one(), model.dimension) for _ in range(QUERIES)]
        query = (
            f"SELECT document, piece FROM rag.vectors WHERE user_id = '{USER}' "
            f"ORDER BY embedding::vector({model.dimension}) <#> %s::vector LIMIT 50"
        ).encode()
        connection.prepare_threshold = None  # a prepared statement would keep the plan of the first setting
        connection.execute("SET enable_indexscan = off")
        exact = [set(connection.execute(query, (one,)).fetchall()) for one in asked]
        connection.execute("SET enable_indexscan = on")
        for breadth in (50, 100, 200):
            connection.execute(f"SET hnsw.ef_search = {breadth}".encode())
            took, recall = [], []
            for one, right in zip(asked, exact, strict=True):
                began = time.perf_counter()
                found = set(connection.execute(query, (one,)).fetchall())
                took.append((time.perf_counter() - began) * 1000)
                recall.append(len(found & right) / len(right))
            print(
                f"HNSW, ef_search {breadth:4}: p50 {statistics.median(took):6.1f} ms, recall of 50 {statistics.mean(recall):.3f}"
            )


def _part(text: str, length: int, chance: random.Random) -> str:
    runs = re.findall(rf"[\u4e00-\u9fff]{{{length},}}", text)
    run = str(chance.choice(runs))
    start = chance.randrange(len(run) - length + 1)
    return run[start : start + length]


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.rag_store")
    parser.add_argument("--text", required=True, help="a Chinese text to shuffle, UTF-8")
    parser.add_argument("--pieces", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--hnsw", action="store_true", help="build an approximate index, too, and compare")
    parser.add_argument("--alternatives", action="store_true", help="time other ways to find words, too")
    arguments = parser.parse_args()
    arguments.text = Path(arguments.text).read_text(encoding="utf-8")
    server = PostgresProcess()
    server.start()
    try:
        asyncio.run(measure(server, arguments))
    finally:
        server.close()


if __name__ == "__main__":
    main()
