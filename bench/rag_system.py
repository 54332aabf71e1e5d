"""A whole retrieval system for benches: nats-server, PostgreSQL, a bridge and retrieval workers, and a caller over gRPC."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import psutil
import psycopg

from bench.processes import Processes, cpu_seconds
from qingyu_ai import routes
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import rag_pb2 as rag
from services.rag.database import WORKER_ROLE
from services.rag.migrate import migrate
from tests.postgres import PostgresProcess


@dataclass
class RagSystem:
    """What is running."""

    processes: Processes
    postgres: PostgresProcess
    port: int

    @property
    def worker_dsn(self) -> str:
        """The database as a worker sees it."""
        return self.postgres.dsn("postgres", "worker", WORKER_ROLE)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by process."""
        server = psutil.Process(self.postgres.pid)
        times = []
        for one in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a worker of PostgreSQL's own that has just ended
                times.append(one.cpu_times())
        used = {name: cpu_seconds(self.processes.pid(name)) for name in ("bridge", "rag", "nats")}
        # A connection that has ended is counted in its parent's children.
        ended = server.cpu_times()
        return {**used, "postgres": sum(t.user + t.system for t in times) + ended.children_user + ended.children_system}

    def channel(self) -> grpc.aio.Channel:
        """A caller's connection."""
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", -1)])

    def prepared(self) -> None:
        """Have the planner know what there is."""
        with psycopg.connect(self.postgres.dsn("postgres"), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")


@contextmanager
def rag_system(**settings: Any) -> Iterator[RagSystem]:
    """Start it.

    Args:
        settings: of the section `rag`.
    """
    with Processes() as processes:
        postgres = PostgresProcess()
        postgres.start()
        try:
            migrate(postgres.dsn("postgres"), postgres.dsn("postgres", "worker", WORKER_ROLE))
            port, metrics = free_ports(2)
            env = {
                "NATS_URL": processes.nats(),
                "QINGYU_BRIDGE__PORT": str(port),
                "QINGYU_BRIDGE__METRICS_PORT": str(metrics),
                "QINGYU_BRIDGE__EXPECTED_WORKERS": '["rag"]',
                "QINGYU_RAG__DSN": postgres.dsn("postgres", "worker", WORKER_ROLE),
                "QINGYU_RAG__METRICS_PORT": "0",
                **{f"QINGYU_RAG__{name.upper()}": json.dumps(value) for name, value in settings.items()},
            }
            processes.module("bridge", "bridge", env=env)
            processes.module("rag", "services.rag", env=env)
            processes.wait_ready("bridge", metrics)
            processes.wait_for_line("rag", "worker_started")
            _wait_healthy(port)
            yield RagSystem(processes, postgres, port)
        finally:
            postgres.close()


def _wait_healthy(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: Any = channel.unary_unary(
            routes.HEALTH_CHECK.path, ai.HealthRequest.SerializeToString, ai.HealthResponse.FromString
        )
        for _ in range(200):
            if check(ai.HealthRequest(), timeout=5).status == "healthy":
                return
            time.sleep(0.1)
    raise RuntimeError("the system is not healthy")


async def index_all(channel: grpc.aio.Channel, documents: Iterable[rag.IndexRequest]) -> rag.BatchIndexResponse:
    """Index documents by BatchIndex."""
    batch: Any = channel.stream_unary(
        routes.BATCH_INDEX.path, rag.IndexRequest.SerializeToString, rag.BatchIndexResponse.FromString
    )
    return await batch(iter(documents), timeout=900)  # type: ignore[no-any-return]


def search_method(channel: grpc.aio.Channel | grpc.Channel) -> Any:
    """Search, as a function of (request, timeout): a coroutine function on a channel of grpc.aio."""
    return channel.unary_unary(routes.SEARCH.path, rag.SearchRequest.SerializeToString, rag.SearchResponse.FromString)
