"""The base with components/nats-permissions and components/tls: it works, and nobody else gets in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import grpc
import nats
import nats.errors
import pytest
import trustme

from deploy.manifests import K8S, documents, with_components
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from qingyu_ai.doors.roles import NAMES
from tests.deploy.running import Deployed, bearer, deploy
from tests.deploy.test_processes import QUESTION
from tests.optional import require_tool
from tests.postgres import PostgresProcess

pytestmark = [pytest.mark.once, pytest.mark.timeout(180), pytest.mark.xdist_group("closed")]

AUTHORITY = trustme.CA()


def certificate(*names: str) -> dict[str, str]:
    """A Secret as cert-manager makes it."""
    issued = AUTHORITY.issue_cert(*names)
    return {
        "ca.crt": AUTHORITY.cert_pem.bytes().decode(),
        "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode(),
        "tls.key": issued.private_key_pem.bytes().decode(),
    }


def secrets() -> dict[str, Mapping[str, str]]:
    """What an operator makes besides the usual."""
    return {
        "nats-users": {name: f"p-{name}-{'x' * 20}" for name in NAMES},
        "qingyu-nats-tls": certificate("127.0.0.1", "localhost"),
        "qingyu-bridge-tls": certificate("127.0.0.1", "localhost"),
    }


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    require_tool("kustomize")
    found = documents(with_components(K8S / "base", ["nats-permissions", "tls"]))
    postgres = PostgresProcess()
    postgres.start()
    try:
        running = deploy(found, postgres, tmp_path_factory.mktemp("closed"), more=secrets(), stays="streams")
        yield running
        running.node.close()
    finally:
        postgres.close()


def test_system_behind_closed_doors_is_healthy_and_answers(closed: Deployed) -> None:
    trusted = grpc.ssl_channel_credentials(AUTHORITY.cert_pem.bytes())
    with grpc.secure_channel(closed.bridge, trusted) as channel:
        stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
        health = stub.HealthCheck(ai.HealthRequest(), timeout=10, metadata=bearer("u1"))
        assert health.status == "healthy", health.details
        chunks = list(stub.ChatStream(ai.ChatRequest(messages=[QUESTION]), timeout=60, metadata=bearer("u1")))
    assert chunks[-1].is_final


def test_nobody_comes_in_without_a_password_or_in_the_clear(closed: Deployed) -> None:
    async def enter() -> None:
        await nats.connect(f"nats://127.0.0.1:{closed.nats[0].ports[4222]}", allow_reconnect=False, connect_timeout=5)

    with pytest.raises((nats.errors.Error, OSError)):
        asyncio.run(enter())
    with grpc.insecure_channel(closed.bridge) as channel, pytest.raises(grpc.RpcError) as refused:
        ai_agent_pb2_grpc.AIAgentServiceStub(channel).HealthCheck(ai.HealthRequest(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_process_asked_for_more_than_it_may(closed: Deployed) -> None:
    """Also the bridge, which counts the jobs of each queue."""
    said = "".join(server.log.read_text() for server in closed.nats)
    assert "Permissions Violation" not in said, said[said.index("Permissions Violation") - 200 :][:400]
    assert 'qingyu_queue_waiting{queue="chat"} 0.0' in closed.processes["bridge"].get("metrics", "/metrics")[1]
