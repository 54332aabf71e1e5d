"""A whole system, started from the manifests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from deploy.manifests import Document
from tests.deploy.kubelet import SECTIONS, Launch, Node, Pod, on_this_machine
from tests.postgres import PostgresProcess

BACKEND_KEY = "b" * 40
DATABASE = "qingyu"


@dataclass
class Deployed:
    """It runs."""

    node: Node
    nats: list[Pod]
    processes: dict[str, Pod]
    setup_seconds: float

    @property
    def bridge(self) -> str:
        """Where the bridge is called."""
        return self.node.bridges

    def metrics(self) -> str:
        """What all processes say to Prometheus."""
        return "".join(pod.get("metrics", "/metrics")[1] for pod in self.processes.values())


def secrets(postgres: PostgresProcess) -> dict[str, Mapping[str, str]]:
    """What an operator makes."""
    worker = postgres.dsn(DATABASE, "worker", "qingyu_rag")
    return {
        "qingyu-database": {"QINGYU_RAG__DSN": worker},
        "qingyu-database-owner": {"QINGYU_RAG__OWNER_DSN": postgres.dsn(DATABASE)},
        "qingyu-proxy": {"QINGYU_PROXY__TICKET_KEY": "t" * 40, "QINGYU_PROXY__BACKEND_KEY": BACKEND_KEY},
    }


def deploy(
    found: list[Document], postgres: PostgresProcess, folder: Path, launch: Launch = on_this_machine
) -> Deployed:
    """Start the servers, run the Job, start one process of each kind, and wait until all are ready."""
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    node = Node(found, secrets(postgres), folder, launch)
    try:
        nats = [node.start("nats", index) for index in range(node.container("nats").workload["spec"]["replicas"])]
        for server in nats:
            node.wait_for(server, "startup", "liveness")
        began = time.monotonic()
        run_setup(node)
        took = time.monotonic() - began
        for server in nats:
            node.wait_for(server, "readiness")
        processes = {kind: node.start(kind) for kind in SECTIONS}
        for pod in processes.values():
            node.wait_for(pod, "startup", "readiness", "liveness")
    except BaseException:
        node.close()
        raise
    return Deployed(node, nats, processes, took)


def run_setup(node: Node) -> None:
    """Run the Job's containers, one after the other."""
    for name in ("database", "main"):
        pod = node.start("setup", name=name)
        assert pod.wait() == 0, pod.log.read_text()
