"""A whole system, started from the manifests."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jwt
import psycopg

from deploy.manifests import Document
from tests.deploy.kubelet import SECTIONS, Launch, Node, Pod, on_this_machine
from tests.postgres import PostgresProcess
from tests.tokens import private_key, private_pem, public_pem

BACKEND_KEY = "b" * 40
TOKEN_KEY = "k" * 40
DATABASE = "qingyu"

ATTEMPTS = 4
"""Other runs of the tests on this machine choose their ports in the same way, and may be faster."""


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
    bridge, agent = private_key("EdDSA"), private_key("EdDSA", 1)
    worker = postgres.dsn(DATABASE, "worker", "qingyu_rag")
    return {
        "qingyu-database": {"QINGYU_RAG__DSN": worker},
        "qingyu-database-owner": {"QINGYU_RAG__OWNER_DSN": postgres.dsn(DATABASE)},
        "qingyu-bridge": {"QINGYU_BRIDGE__TOKEN_KEY": TOKEN_KEY, "QINGYU_BRIDGE__TRUSTED_ROLES": '["ai-proxy"]'},
        "qingyu-proofs": {
            "bridge.pem": private_pem(bridge),
            "agent.pem": private_pem(agent),
            "callers.pem": public_pem(bridge) + public_pem(agent),
        },
        "qingyu-proxy": {
            "QINGYU_PROXY__TICKET_KEY": "t" * 40,
            "QINGYU_PROXY__BACKEND_KEY": BACKEND_KEY,
            "QINGYU_AI__PROXY__TOKEN": token("the-proxy", roles=["ai-proxy"]),
        },
    }


def token(user: str, **claims: object) -> str:
    """A token that the bridge takes."""
    return jwt.encode({"sub": user, "exp": time.time() + 3600, **claims}, TOKEN_KEY, "HS256")


def bearer(user: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a caller with a token."""
    return (("authorization", f"Bearer {token(user)}"),)


def asked_by_a_backend(deployed: Deployed, key: str) -> dict[str, Any]:
    """Ask the proxy something in a user's name.

    Raises:
        urllib.error.HTTPError: it does not answer, or does not take the key.
    """
    body = json.dumps({"messages": [{"role": "user", "content": "灯为什么不能灭？"}]}).encode()
    headers = {"Content-Type": "application/json", "X-User-Id": "u1", "X-Backend-Key": key}
    address = f"http://127.0.0.1:{deployed.processes['proxy'].ports[8080]}/api/v1/ai/chat"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, body, headers), timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def deploy(
    found: list[Document],
    postgres: PostgresProcess,
    folder: Path,
    launch: Launch = on_this_machine,
    *,
    more: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    stays: str = "",
) -> Deployed:
    """Start the servers, run the Job, start one process of each kind, and wait until all are ready.

    Args:
        more: Secrets besides those of every deployment.
        stays: a further Deployment, that is started before the processes.
    """
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    for attempt in range(ATTEMPTS):
        own = folder / str(attempt)
        own.mkdir()
        node = Node(found, {**secrets(postgres), **more}, own, launch)
        try:
            return _started(node, stays)
        except BaseException as e:
            node.close()
            if not isinstance(e, AssertionError) or not node.lost_a_port or attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _started(node: Node, stays: str) -> Deployed:
    nats = start_servers(node)
    began = time.monotonic()
    run_setup(node)
    took = time.monotonic() - began
    for server in nats:
        node.wait_for(server, "readiness")
    if stays:
        node.start(stays)
    processes = {kind: node.start(kind) for kind in SECTIONS}
    for pod in processes.values():
        node.wait_for(pod, "startup", "readiness", "liveness")
    return Deployed(node, nats, processes, took)


def start_servers(node: Node) -> list[Pod]:
    """Start the servers of NATS, as many as there are, until they are alive."""
    servers = [node.start("nats", index) for index in range(node.container("nats").workload["spec"]["replicas"])]
    for server in servers:
        node.wait_for(server, "startup", "liveness")
    return servers


def run_setup(node: Node, *names: str) -> None:
    """Run the Job's containers, one after the other.

    Args:
        names: only these; none: all.
    """
    for name in names or ("database", "main"):
        pod = node.start("setup", name=name)
        assert pod.wait() == 0, pod.log.read_text()
