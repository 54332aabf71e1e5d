"""The Go backend's side of the contract: `clients/go/smoke` calls everything, on real systems and on a server that is wrong.

The program waits for 75 s, so that keepalive pings would have ended a connection on which they are not allowed. It runs on
the wrong server at the same time, not after.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import AGENT_SERVICE, CHAT, CHAT_STREAM, HEALTH_CHECK, RAG_SERVICE, ROUTES, TOOL_SERVICE
from tests.optional import ROOT, require_tool
from tests.postgres import PostgresProcess
from tests.running import System, Worker, echo

MODULE = ROOT / "clients" / "go"

PINGS_END_IT_SECONDS = 60
"""A server with default options ends an idle connection after at most 40 s, and one with a silent stream after 50 s."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("go smoke"),  # one process: the module's fixtures are what saves a minute
]


@pytest.fixture(scope="module")
def go() -> str:
    return require_tool("go")


@pytest.fixture(scope="module")
def smoke(go: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built."""
    program = tmp_path_factory.mktemp("go") / "smoke"
    build = run(go, "build", "-o", str(program), "./smoke")
    assert build.returncode == 0, build.stderr
    return program


def always_healthy(request: ai.HealthRequest, context: grpc.ServicerContext) -> ai.HealthResponse:
    return ai.HealthResponse(status="healthy")


def final_chunk(request: ai.ChatRequest, context: grpc.ServicerContext) -> Iterator[ai.ChatStreamChunk]:
    ends = time.monotonic() + float(request.context.get("silent_seconds", "0"))
    while context.is_active() and time.monotonic() < ends:
        time.sleep(0.05)
    yield ai.ChatStreamChunk(delta="字字字", is_final=True)


WRONG: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
    HEALTH_CHECK.method: grpc.unary_unary_rpc_method_handler(
        always_healthy, ai.HealthRequest.FromString, ai.HealthResponse.SerializeToString
    ),
    CHAT_STREAM.method: grpc.unary_stream_rpc_method_handler(
        final_chunk, ai.ChatRequest.FromString, ai.ChatStreamChunk.SerializeToString
    ),
}
"""Enough for the program to get to each of its checks, and to none that is right."""


@pytest.fixture(scope="module")
def on_the_wrong_server(smoke: Path) -> Iterator[subprocess.Popen[str]]:
    """The program on a server with grpcio's default options; it has begun and is not waited for."""
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(AGENT_SERVICE, WRONG),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    command = [str(smoke), "-target", target, "-echo-target", target, "-quiet-seconds", str(PINGS_END_IT_SECONDS)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with program:
        yield program
        program.kill()
    server.stop(grace=0).wait()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=MODULE, capture_output=True, text=True, timeout=250, check=False)


def tools() -> Worker:
    """The tools of every deployment, and some more: one of those is for verified users."""
    modules = json.dumps(["services.tool.builtin", "tests.tool.few"])
    return Worker("services.tool", "tool", {"QINGYU_TOOL__MODULES": modules})


@pytest.fixture
def retrieval() -> Iterator[Worker]:
    """A retrieval worker, and the database that it prepares."""
    database = PostgresProcess()
    database.start()
    yield Worker("services.rag", "rag", database.settings)
    database.close()


def test_the_go_code_is_formatted_and_vetted(go: str) -> None:
    assert run(require_tool("gofmt"), "-l", ".").stdout == ""
    vet = run(go, "vet", "./...")
    assert vet.returncode == 0, vet.stderr


def test_what_is_asked_of_an_agents_stream_is_asked_in_earnest(go: str) -> None:
    tested = run(go, "test", "./...")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "\tqingyu.ai/clients/go/smoke\t" in tested.stdout, tested.stdout


def test_every_rpc_behaves_for_a_go_backend(smoke: Path, on_the_wrong_server: object, retrieval: Worker) -> None:
    workers = ("services.chat", tools(), "services.agent", retrieval)
    with System(*workers) as system, System(echo()) as echoing:
        result = run(str(smoke), "-target", system.target, "-echo-target", echoing.target)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "0 failed, 0 skipped" in result.stdout, result.stdout
        contract = [route for route in ROUTES if route.service in (AGENT_SERVICE, RAG_SERVICE, TOOL_SERVICE)]
        assert len(contract) == 12
        for route in ROUTES:
            assert f" {route.method} " in result.stdout, f"nothing calls {route.method}:\n{result.stdout}"
        for route in contract:
            lines = [line for line in result.stdout.splitlines() if f" {route.method}  " in line]
            alone = route in (CHAT, CHAT_STREAM, HEALTH_CHECK)  # these are never without a worker there
            assert len(lines) == (1 if alone else 2), f"{route.method} with a worker and without: {lines}"
            assert all(line.startswith("  ok ") for line in lines), lines


def test_every_check_fails_on_a_server_that_is_wrong(on_the_wrong_server: subprocess.Popen[str]) -> None:
    output, _ = on_the_wrong_server.communicate(timeout=PINGS_END_IT_SECONDS + 60)
    assert on_the_wrong_server.returncode == 1, output
    assert "\n0 ok, " in output, output
    assert "0 skipped" in output, output
    [idle, silent] = [line for line in output.splitlines() if "idle connection" in line or "silent stream" in line]
    assert "the connection was lost after" in idle
    assert "Too many pings" in silent
