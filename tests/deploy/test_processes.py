"""Every process starts from its manifest's command line, passes the probes of its manifest, and does its work."""

from __future__ import annotations

import copy
import json
import re
import socket
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from deploy.manifests import K8S, Document, documents, of_kind, rendered
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, tool_pb2_grpc
from tests.deploy.kubelet import SECTIONS, Node
from tests.deploy.running import BACKEND_KEY, Deployed, asked_by_a_backend, bearer, deploy, run_setup
from tests.deploy.test_alerts import queried
from tests.postgres import PostgresProcess
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.timeout(180), pytest.mark.xdist_group("deployed")]


QUESTION = common.Message(role="user", content="请写一段关于灯塔、海雾和守夜人的长故事，越长越好。")


def with_tools(base: list[Document]) -> list[Document]:
    """As an operator adds tools: by a setting. One of these is for verified users."""
    found = copy.deepcopy(base)
    [settings] = [d for d in of_kind(found, "ConfigMap") if d["metadata"]["name"].startswith("qingyu-settings")]
    settings["data"]["QINGYU_TOOL__MODULES"] = json.dumps(["services.tool.builtin", "tests.tool.few"])
    return found


@pytest.fixture(scope="module")
def deployed(base: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    postgres = PostgresProcess()
    postgres.start()
    try:
        running = deploy(with_tools(base), postgres, tmp_path_factory.mktemp("deployed"))
        yield running
        running.node.close()
    finally:
        postgres.close()


def test_system_that_the_manifests_start_is_healthy(deployed: Deployed) -> None:
    with grpc.insecure_channel(deployed.bridge) as channel:
        health = ai_agent_pb2_grpc.AIAgentServiceStub(channel).HealthCheck(
            ai.HealthRequest(), timeout=10, metadata=bearer("u1")
        )
    assert health.status == "healthy", health.details
    assert {kind for kind in SECTIONS if f"worker.{kind}" in health.details} == {"chat", "agent", "rag", "tool"}


def test_bridge_of_the_manifests_takes_nobody_without_a_token(deployed: Deployed) -> None:
    with grpc.insecure_channel(deployed.bridge) as channel, pytest.raises(grpc.RpcError) as refused:
        ai_agent_pb2_grpc.AIAgentServiceStub(channel).Chat(ai.ChatRequest(messages=[QUESTION]), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_proxy_of_the_manifests_takes_a_backend_with_its_key_and_nobody_else(deployed: Deployed) -> None:
    assert asked_by_a_backend(deployed, BACKEND_KEY)["message"]["content"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked_by_a_backend(deployed, "another key")
    assert refused.value.code == 401
    refused.value.close()


def test_tool_for_verified_users_runs_with_the_keys_of_the_manifests(deployed: Deployed) -> None:
    with grpc.insecure_channel(deployed.bridge) as channel:
        answer = tool_pb2_grpc.ToolServiceStub(channel).CallTool(
            tool.ToolRequest(tool_name="mine", parameters="{}"), timeout=30, metadata=bearer("u1")
        )
    assert answer.success, answer.error
    assert json.loads(answer.result)["user"] == "u1"


def test_setup_job_can_run_again(deployed: Deployed) -> None:
    run_setup(deployed.node)
    assert "the database is up to date" in (deployed.node.folder / "setup-0.log").read_text()


def test_no_process_has_met_an_error_or_a_defect(deployed: Deployed) -> None:
    for pod in deployed.processes.values():
        lines = [json.loads(line) for line in pod.log.read_text().splitlines() if line.startswith("{")]
        assert [line for line in lines if line["level"] in ("error", "critical") or "exception" in line] == []


def test_streams_have_three_copies(deployed: Deployed) -> None:
    _, text = deployed.nats[0].get("monitor", "/jsz?streams=1&config=1")
    streams = [s for account in json.loads(text)["account_details"] for s in account["stream_detail"]]
    assert len(streams) >= 7
    assert {stream["config"]["num_replicas"] for stream in streams} == {3}


@pytest.mark.parametrize("what", ["alerts", "scaling"])
def test_metrics_that_are_asked_for_are_exported(deployed: Deployed, prod: list[Document], what: str) -> None:
    """Each metric that an alert or the autoscaler names, once a call of each kind has been made."""
    with grpc.insecure_channel(deployed.bridge) as channel:
        list(
            ai_agent_pb2_grpc.AIAgentServiceStub(channel).ChatStream(
                ai.ChatRequest(messages=[QUESTION]), timeout=60, metadata=bearer("u1")
            )
        )
    exported = set(re.findall(r"^([a-z_]+)(?:\{| )", deployed.metrics(), re.M))
    exported |= {f"{name}_total" for name in re.findall(r"^# TYPE ([a-z_]+)_total counter$", deployed.metrics(), re.M)}
    assert queried(prod, what) - exported == set()


def test_queues_that_the_autoscaler_asks_for_are_there(deployed: Deployed, prod: list[Document]) -> None:
    asked = {
        queue
        for one in of_kind(prod, "ScaledObject")
        for trigger in one["spec"]["triggers"]
        for queue in re.findall(r'queue="(\w+)"', trigger["metadata"]["query"])
    }

    def waiting() -> dict[str, str]:
        return dict(re.findall(r'^qingyu_queue_waiting\{queue="(\w+)"\} (\S+)$', deployed.metrics(), re.M))

    assert set(waiting()) == asked
    eventually_sync(lambda: set(waiting().values()) == {"0.0"})


def test_scale_in_does_not_end_a_call(deployed: Deployed) -> None:
    """The worker that has a stream is told to stop in the middle of it: it says it to its end, and ends then."""
    worker = deployed.processes["chat"]
    request = ai.ChatRequest(messages=[QUESTION])
    with grpc.insecure_channel(deployed.bridge) as channel:
        stream = ai_agent_pb2_grpc.AIAgentServiceStub(channel).ChatStream(request, timeout=120, metadata=bearer("u1"))
        chunks = [next(stream)]
        worker.terminate()
        eventually_sync(lambda: worker.get("metrics", "/readyz") == (503, "draining\n"))
        assert worker.alive
        assert worker.passes("liveness"), "who drains must not be restarted"
        chunks += list(stream)
    assert chunks[-1].is_final
    assert len(chunks) > 3
    assert worker.wait() == 0
    again = deployed.processes["chat"] = deployed.node.start("chat")
    deployed.node.wait_for(again, "startup", "readiness")


def test_server_that_is_to_stop_sends_its_clients_away_and_ends_by_itself(deployed: Deployed) -> None:
    """By its preStop command, and not by the SIGTERM that follows; the others go on, and it comes back."""
    leaving = deployed.nats[0]
    with (
        socket.create_connection(("127.0.0.1", leaving.ports[4222]), timeout=60) as client,
        client.makefile("rb") as said,
    ):
        client.sendall(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n')
        while said.readline() != b"PONG\r\n":
            pass
        assert leaving.before_stop() == 0
        eventually_sync(lambda: "Entering lame duck mode" in leaving.log.read_text())
        leaving.terminate()
        assert b'"ldm":true' in said.read(), "its clients must be told to go elsewhere, and only then be cut off"
    assert leaving.wait() == 0
    assert "Closing existing clients" in leaving.log.read_text()
    for pod in deployed.processes.values():
        deployed.node.wait_for(pod, "readiness", "liveness")
    leaving.start()
    deployed.node.wait_for(leaving, "startup", "readiness")


def test_server_of_the_laptop_starts_alone(tmp_path: Path) -> None:
    node = Node(documents(rendered(K8S / "overlays" / "dev")), {}, tmp_path)
    try:
        node.wait_for(node.start("nats"), "startup", "readiness", "liveness")
    finally:
        node.close()
