"""The base with components/nats-permissions and components/tls, or mutual-tls: it works, and nobody else gets in."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import nats
import nats.errors
import pytest
import trustme

from deploy.manifests import K8S, documents, with_components
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from qingyu_ai.doors.roles import NAMES
from tests.deploy.kubelet import Pod
from tests.deploy.running import BACKEND_KEY, Deployed, asked_by_a_backend, bearer, deploy
from tests.deploy.test_processes import QUESTION
from tests.optional import require_tool
from tests.postgres import PostgresProcess
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.timeout(180), pytest.mark.xdist_group("closed")]

AUTHORITY, ANOTHER = trustme.CA(), trustme.CA()

Secret = Mapping[str, str]


def certificate(*names: str, authority: trustme.CA = AUTHORITY) -> Secret:
    """A Secret as cert-manager makes it."""
    issued = authority.issue_cert(*names)
    return {
        "ca.crt": authority.cert_pem.bytes().decode(),
        "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode(),
        "tls.key": issued.private_key_pem.bytes().decode(),
    }


OURS = certificate("127.0.0.1", "localhost")
CLIENT = certificate("qingyu")


def secrets() -> dict[str, Secret]:
    """What an operator makes besides the usual."""
    return {
        "nats-users": {name: f"p-{name}-{'x' * 20}" for name in NAMES},
        "qingyu-nats-tls": OURS,
        "qingyu-bridge-tls": certificate("127.0.0.1", "localhost"),
        "qingyu-client-tls": CLIENT,
    }


@pytest.fixture(scope="module", params=["tls", "mutual-tls"])
def component(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def closed(component: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    require_tool("kustomize")
    found = documents(with_components(K8S / "base", ["nats-permissions", component]))
    postgres = PostgresProcess()
    postgres.start()
    try:
        running = deploy(found, postgres, tmp_path_factory.mktemp("closed"), more=secrets(), stays="streams")
        yield running
        running.node.close()
    finally:
        postgres.close()


def trusting(shown: Secret | None = None) -> grpc.ChannelCredentials:
    """How a caller connects to the bridge, with a certificate of its own or without one."""
    pair = (shown["tls.key"].encode(), shown["tls.crt"].encode()) if shown else (None, None)
    return grpc.ssl_channel_credentials(AUTHORITY.cert_pem.bytes(), *pair)


def health(closed: Deployed, credentials: grpc.ChannelCredentials) -> str:
    with grpc.secure_channel(closed.bridge, credentials) as channel:
        stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
        return str(stub.HealthCheck(ai.HealthRequest(), timeout=10, metadata=bearer("u1")).status)


def test_system_behind_closed_doors_is_healthy_and_answers(closed: Deployed) -> None:
    assert health(closed, trusting(CLIENT)) == "healthy"
    with grpc.secure_channel(closed.bridge, trusting(CLIENT)) as channel:
        stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
        chunks = list(stub.ChatStream(ai.ChatRequest(messages=[QUESTION]), timeout=60, metadata=bearer("u1")))
    assert chunks[-1].is_final


def test_proxy_reaches_the_bridge(closed: Deployed) -> None:
    assert asked_by_a_backend(closed, BACKEND_KEY)["message"]["content"]


def test_caller_without_a_certificate_comes_in_only_where_none_is_asked_for(closed: Deployed, component: str) -> None:
    if component == "tls":
        assert health(closed, trusting()) == "healthy"
        return
    for shown in (None, certificate("qingyu", authority=ANOTHER)):
        with pytest.raises(grpc.RpcError) as refused:
            health(closed, trusting(shown))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


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


# Between the servers.


def greeted(server: Pod, port: int, folder: Path, shown: Secret | None = None) -> bytes:
    """Connect to a port of a server as another server or a client does, and say something there.

    Returns:
        The certificate that the server shows, DER.

    Raises:
        OSError: it ends the connection.
    """
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
    if shown is not None:
        for name in ("tls.crt", "tls.key"):
            (folder / name).write_text(shown[name])
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    with socket.create_connection(("127.0.0.1", server.ports[port]), timeout=20) as plain:
        greeting = b"\r\n" if port == 6222 else b""  # a route is encrypted from its first byte
        while not greeting.endswith(b"\r\n"):
            greeting += plain.recv(1)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
            encrypted.sendall(b"PING\r\n")
            found = encrypted.getpeercert(binary_form=True) or b""
            if not encrypted.recv(1):  # with TLS 1.3 it is only now that we hear whether ours is taken
                raise ConnectionError("the server has ended the connection")
            return found


def test_three_servers_are_one_cluster_whose_routes_are_encrypted_and_mutual(closed: Deployed) -> None:
    names = {server.name for server in closed.nats}
    for server in closed.nats:
        routes = json.loads(server.get("monitor", "/routez")[1])["routes"]
        assert {route["remote_name"] for route in routes} == names - {server.name}
        cluster = json.loads(server.get("monitor", "/varz")[1])["cluster"]
        assert (cluster["tls_required"], cluster["tls_verify"]) == (True, True)


def test_nobody_joins_the_cluster_without_a_certificate_of_its_authority(closed: Deployed, tmp_path: Path) -> None:
    server = closed.nats[0]
    for shown in (None, certificate("127.0.0.1", authority=ANOTHER)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            greeted(server, 6222, tmp_path, shown)
    assert greeted(server, 6222, tmp_path, OURS)


def test_servers_take_new_certificates_as_they_run(closed: Deployed, tmp_path: Path) -> None:
    """For clients and for routes, told by the container beside them, and let nobody go for it."""
    new = certificate("127.0.0.1", "localhost")
    shown = ssl.PEM_cert_to_DER_cert(new["tls.crt"])
    for server in closed.nats:
        sleeps = closed.node.programs / "sleep.began"
        sleeps.unlink(missing_ok=True)
        closed.node.start("nats", server.index, "renewal")
        eventually_sync(sleeps.exists)  # it has seen what there is
        [mount] = [m for m in server.container.described["volumeMounts"] if m["mountPath"] == "/etc/nats-tls"]
        folder = closed.node.mounted(server, mount)
        for name, text in new.items():
            (folder / f".{name}").write_text(text)
            os.replace(folder / f".{name}", folder / name)
        eventually_sync(lambda server=server: "Reloaded server configuration" in server.log.read_text())  # type: ignore[misc]
        for port in (4222, 6222):
            assert greeted(server, port, tmp_path, OURS) == shown
    assert health(closed, trusting(CLIENT)) == "healthy"
    test_three_servers_are_one_cluster_whose_routes_are_encrypted_and_mutual(closed)
