"""Tools of real MCP servers, by pipes and by HTTP, through a tool worker, a real nats-server and a real bridge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from structlog.testing import capture_logs

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.settings import McpServer, SettingsError
from services.tool.process import serve
from services.tool.registry import Announcer, Listing, OtherSchema, Registry
from services.tool.sandbox import Sandbox
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.optional import require_package
from tests.ports import free_port
from tests.tool import few
from tests.tool.test_service import bus_settings as bus_settings
from tests.tool.test_service import call, listed
from tests.waiting import eventually, eventually_sync

require_package("mcp")
from services.tool.mcp import connection, servers  # noqa: E402
from services.tool.mcp.servers import McpServers  # noqa: E402

PEER = str(Path(__file__).with_name("mcp_peer.py"))

OFFERED = [
    f"peer_{name}"
    for name in (
        "die",
        "double",
        "environment",
        "fail",
        "grow",
        "long",
        "picture",
        "read_file",
        "shrink",
        "wait",
        "wrong",
    )
]
"""All tools of the peer but the one whose schema cannot be passed on."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT_SECONDS", 0.2)


def program(*args: str, **settings: Any) -> McpServer:
    return McpServer(command=sys.executable, args=(PEER, *args), **settings)


class Http:
    """The peer at a port that it keeps."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *args: str) -> None:
        self._process = subprocess.Popen([sys.executable, PEER, "--http", str(self.port), *args])
        eventually_sync(lambda: self._answers, timeout=30)

    @property
    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def settings(self, **more: Any) -> McpServer:
        return McpServer(url=f"http://127.0.0.1:{self.port}/mcp", probe_seconds=0.3, **more)


@pytest.fixture
def http() -> Iterator[Http]:
    one = Http()
    one.start()
    yield one
    one.kill()


@pytest.fixture(params=["program", "program --before", "http", "http --before"])
def peer(request: pytest.FixtureRequest) -> Iterator[McpServer]:
    """The peer in each way that a server is spoken to; `--before`: by the revisions of MCP before 2026-07-28."""
    way, *args = request.param.split()
    if way == "program":
        yield program(*args)
        return
    one = Http()
    one.start(*args)
    yield one.settings()
    one.kill()


@contextlib.asynccontextmanager
async def tool_worker(
    bridge: Bridge, named: Mapping[str, McpServer], taken: Sequence[str] = ()
) -> AsyncIterator[Worker]:
    bus = await NatsBus.open(bridge.settings.nats.servers, "tool", on_closed=lambda: None)
    tools = [few.twice]
    try:
        async with Sandbox(tools, children=1) as sandbox, McpServers(named, ["twice", *taken]) as source:
            worker = Worker(bus, "tool", bridge.settings.bus, slots=8)
            serve(bus, worker, tools, sandbox, bridge.settings.bus.tool_lease_seconds, [source])
            try:
                await worker.start()
                await eventually(lambda: any(w.id == worker.token for w in bridge.presence.workers()))
                yield worker
            finally:
                await worker.drain(1)
    finally:
        await bus.close()


async def is_listed(bridge: Bridge, name: str) -> bool:
    return name in await listed(bridge)


async def test_tools_are_listed_described_and_called(bridge: Bridge, peer: McpServer) -> None:
    async with tool_worker(bridge, {"peer": peer}):
        assert await listed(bridge) == [*OFFERED, "twice"]
        assert await listed(bridge, "peer") == OFFERED
        info: pb.ToolInfo = await bridge.unary(routes.GET_TOOL_INFO)(
            pb.GetToolInfoRequest(tool_name="peer_read_file"), timeout=5
        )
        assert info.description == "测试：Read-File\n（MCP 服务 peer 的工具 Read-File）"
        assert [(one.name, one.type, one.required, one.default_value) for one in info.parameters] == [
            ("path", "string", True, ""),
            ("lines", "integer", False, "null"),
            ("mode", "string", False, ""),
        ]
        assert info.parameters[0].description == "文件路径"
        answer = await call(bridge, "peer_double", number=21)
        assert (json.loads(answer.result), answer.success, answer.status.code) == ({"double": 42}, True, 0)
        answer = await call(bridge, "peer_read_file", path="a", lines=None)
        assert json.loads(answer.result) == {"text": "Read-File: {'path': 'a', 'lines': None}"}
        answer = await call(bridge, "peer_picture")
        assert json.loads(answer.result) == {"text": "一幅画", "left_out": ["image/png"]}
        assert (await call(bridge, "twice", number=1)).success


async def test_registry_has_the_schema_as_it_is_and_what_the_server_says_of_repeating(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program(requires_auth=True, seconds=9), "q": program(repeatable=True)}):
        registry = Registry(bridge.bus, bridge.settings.bus.tool_lease_seconds)
        await registry.start()
        await eventually(lambda: registry.find("q_double") is not None)
        read, double, forced = (registry.find(name) for name in ("peer_read_file", "peer_double", "q_double"))
        assert read is not None
        assert double is not None
        assert forced is not None
        assert read.json_schema["properties"]["mode"] == {"$ref": "#/$defs/Mode"}
        assert (read.repeatable, double.repeatable, forced.repeatable) == (True, False, True)
        assert (read.requires_auth, forced.requires_auth, read.seconds) == (True, False, 9)
        assert registry.find("peer_abroad") is None  # its schema is in another document
        await registry.stop()
        refusal = await bridge.refused(
            routes.CALL_TOOL, pb.ToolRequest(tool_name="peer_double", parameters="{}", user_id="u")
        )
        assert refusal.code is grpc.StatusCode.UNAUTHENTICATED


async def test_parameters_that_do_not_hold_are_named_before_the_server_is_asked(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program()}):
        for wrong, field, words in (
            ({}, "path", "path is missing"),
            ({"path": 1}, "path", "path is 1; it must be a text of at least 1 characters"),
            ({"path": "a", "lines": 0}, "lines", "lines is 0; it must be a whole number, at least 1"),
            ({"path": "a", "mode": "x"}, "mode", "text or bytes"),
            ({"path": "a", "pth": "b"}, "pth", "did you mean path?"),
        ):
            request = pb.ToolRequest(tool_name="peer_read_file", parameters=json.dumps(wrong), user_id="u")
            refusal = await bridge.refused(routes.CALL_TOOL, request)
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            [(name, told)] = refusal.fault.violations
            assert name == f"parameters.{field}"
            assert words in told
        request = pb.ToolRequest(tool_name="peer_read_file", parameters="[", user_id="u")
        assert (await bridge.refused(routes.CALL_TOOL, request)).code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "parameters", "code", "reason", "words"),
    [
        ("peer_fail", {}, grpc.StatusCode.FAILED_PRECONDITION, "TOOL_FAILED", "磁盘已满"),
        ("peer_wait", {"number": 60}, grpc.StatusCode.DEADLINE_EXCEEDED, "TOOL_TIMEOUT", "1 seconds"),
        ("peer_long", {"number": 400}, grpc.StatusCode.INTERNAL, "OUTPUT_TOO_LARGE", "1000"),
        ("peer_wrong", {}, grpc.StatusCode.FAILED_PRECONDITION, "TOOL_FAILED", "peer_wrong"),
        ("peer_die", {}, grpc.StatusCode.UNAVAILABLE, "TOOL_SERVER_AWAY", "暂时无法连接，请稍后重试"),
    ],
)
async def test_tool_that_fails_is_an_answer_that_says_why(
    bridge: Bridge,
    peer: McpServer,
    name: str,
    parameters: dict[str, Any],
    code: grpc.StatusCode,
    reason: str,
    words: str,
) -> None:
    peer = peer.model_copy(update={"seconds": 1.0, "max_output_bytes": 1000})
    async with tool_worker(bridge, {"peer": peer}):
        answer = await call(bridge, name, **parameters)
        assert (answer.success, answer.result, answer.status.code) == (False, "", code.value[0])
        assert answer.status.details == reason
        assert words in answer.error


async def test_program_that_dies_in_a_call_leaves_the_list_and_is_started_again(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program()}):
        waiting = asyncio.create_task(call(bridge, "peer_wait", number=60))
        await asyncio.sleep(0.2)
        assert (await call(bridge, "peer_die")).status.details == "TOOL_SERVER_AWAY"
        assert (await waiting).status.details == "TOOL_SERVER_AWAY"
        await eventually(lambda: not_listed(bridge, "peer_double"), timeout=5)
        assert await is_listed(bridge, "twice")
        answer = await call(bridge, "peer_double", number=1)  # heard, though it is not listed
        assert answer.success or answer.status.details == "TOOL_SERVER_AWAY"
        await eventually(lambda: is_listed(bridge, "peer_double"), timeout=20)
        assert (await call(bridge, "peer_double", number=1)).success


async def not_listed(bridge: Bridge, name: str) -> bool:
    return name not in await listed(bridge)


async def test_server_at_a_port_that_is_gone_leaves_the_list_and_comes_back(bridge: Bridge, http: Http) -> None:
    async with tool_worker(bridge, {"peer": http.settings()}):
        assert (await call(bridge, "peer_double", number=1)).success
        http.kill()
        answer = await call(bridge, "peer_double", number=1)
        assert (answer.status.code, answer.status.details) == (14, "TOOL_SERVER_AWAY")
        await eventually(lambda: not_listed(bridge, "peer_double"))
        http.start()
        await eventually(lambda: is_listed(bridge, "peer_double"), timeout=20)
        assert (await call(bridge, "peer_double", number=1)).success


async def test_change_of_the_servers_list_is_heeded(bridge: Bridge, peer: McpServer) -> None:
    # By HTTP the probe would find it, too: what is heard must come sooner.
    async with tool_worker(bridge, {"peer": peer.model_copy(update={"probe_seconds": 60.0})}):
        assert (await call(bridge, "peer_grow")).success
        await eventually(lambda: is_listed(bridge, "peer_grown"))
        assert (await call(bridge, "peer_grown")).success
        assert (await call(bridge, "peer_shrink")).success
        await eventually(lambda: not_listed(bridge, "peer_grown"))
        refusal = await bridge.refused(routes.CALL_TOOL, pb.ToolRequest(tool_name="peer_grown", parameters="{}"))
        assert refusal.code is grpc.StatusCode.NOT_FOUND


async def test_program_gets_its_environment_and_no_other(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("PEER_KEY", "passed")
    async with tool_worker(bridge, {"peer": program(env={"PEER_MODE": "x"}, pass_env=("PEER_KEY",))}):
        found = json.loads((await call(bridge, "peer_environment")).result)
    found.pop("LC_CTYPE", None)  # Python's own
    assert found == {"PATH": os.environ["PATH"], "PEER_MODE": "x", "PEER_KEY": "passed"}


async def test_program_ends_with_the_worker(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program()}):
        children = [p for p in psutil.Process().children() if PEER in p.cmdline()]
        assert len(children) == 1
    await eventually(lambda: not children[0].is_running())


@pytest.mark.parametrize(
    ("named", "name", "both"),
    [
        (
            {"peer": program("--collide")},
            "peer_read_file",
            "'Read-File' of the MCP server peer and 'read.file' of the MCP server peer",
        ),
        (
            {"a": program("--say", "read_file", tools=("read_file",)), "a_read": program("--say", "file")},
            "a_read_file",
            "'read_file' of the MCP server a and 'file' of the MCP server a_read",
        ),
    ],
)
async def test_names_that_collide_are_refused_at_the_start(named: dict[str, McpServer], name: str, both: str) -> None:
    with pytest.raises(SettingsError, match="QINGYU_TOOL__MCP") as refused:
        async with McpServers(named, []):
            pass
    assert f"{both} would both be called {name!r}" in str(refused.value)


async def test_names_that_would_collide_can_be_chosen_among() -> None:
    async with McpServers({"peer": program("--collide", tools=("read.file",))}, []):
        pass


async def test_tool_that_comes_later_and_whose_name_is_taken_is_left_out(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program()}, taken=["peer_grown"]):
        with capture_logs() as lines:
            assert (await call(bridge, "peer_grow")).success
            await eventually(lambda: [line for line in lines if line["event"] == "mcp_tool_left_out"])
        [line] = [line for line in lines if line["event"] == "mcp_tool_left_out"]
        assert line["reason"].startswith("'peer_grown' of our own and 'grown' of the MCP server peer would both")
        assert await listed(bridge) == [*OFFERED, "twice"]


def other(name: str) -> Listing:
    return Listing(name=name, description="别的", category="other", digest="other")


async def test_worker_whose_servers_tool_has_another_schema_elsewhere_does_not_start(bridge: Bridge) -> None:
    announcer = Announcer(bridge.bus, "w1", bridge.settings.bus.tool_lease_seconds, [other("peer_double")])
    await announcer.start()
    with pytest.raises(OtherSchema, match="'peer_double' is served by worker w1"):
        async with tool_worker(bridge, {"peer": program()}):
            pass
    registry = Registry(bridge.bus, bridge.settings.bus.tool_lease_seconds)
    await registry.start()
    await eventually(lambda: registry.list() == [other("peer_double")], timeout=1)  # nothing is left behind
    await registry.stop()
    await announcer.stop()


async def test_tool_that_comes_later_waits_until_nobody_serves_another_one_by_its_name(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "AGAIN_SECONDS", 0.4)
    announcer = Announcer(bridge.bus, "w1", bridge.settings.bus.tool_lease_seconds, [other("peer_grown")])
    await announcer.start()
    async with tool_worker(bridge, {"peer": program()}) as worker:
        registry = Registry(worker.bus, bridge.settings.bus.tool_lease_seconds)
        await registry.start()
        with capture_logs() as lines:
            assert (await call(bridge, "peer_grow")).success
            await eventually(lambda: [line for line in lines if line["event"] == "mcp_tools_not_offered"])
        await eventually(lambda: registry.find("peer_grown") == other("peer_grown"))
        await announcer.stop()
        await eventually(lambda: found(registry, "peer_grown").category == "peer")
        await registry.stop()


def found(registry: Registry, name: str) -> Listing:
    return registry.find(name) or other("")


async def test_tools_of_a_server_that_two_workers_have_stay_when_one_of_them_stops(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program()}):
        async with tool_worker(bridge, {"peer": program()}):
            assert await listed(bridge) == [*OFFERED, "twice"]
        assert await listed(bridge) == [*OFFERED, "twice"]
        assert (await call(bridge, "peer_double", number=1)).success


async def test_name_of_a_tool_of_ours_is_taken() -> None:
    with pytest.raises(SettingsError, match="'peer_double' of our own and 'double' of the MCP server peer"):
        async with McpServers({"peer": program()}, ["peer_double"]):
            pass


async def test_server_that_is_not_there_stops_nobody(bridge: Bridge) -> None:
    port = free_port()
    named = {
        "peer": program(),
        "gone": McpServer(command="/no/such/program"),
        "away": McpServer(url=f"http://127.0.0.1:{port}/mcp"),
        "mute": McpServer(command="sleep", args=("60",), connect_seconds=0.5),
    }
    async with tool_worker(bridge, named):
        assert await listed(bridge) == [*OFFERED, "twice"]


async def test_message_that_is_too_large_ends_the_server_and_not_the_worker(bridge: Bridge) -> None:
    async with tool_worker(bridge, {"peer": program(max_message_bytes=20_000)}):
        assert (await call(bridge, "peer_long", number=20_000)).status.details == "TOOL_SERVER_AWAY"
        await eventually(lambda: is_listed(bridge, "peer_long"), timeout=20)


async def test_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(SettingsError, match="QINGYU_TOOL__MCP__PEER__PASS_ENV names NO_SUCH_KEY, which is not set"):
        McpServers({"peer": program(pass_env=("NO_SUCH_KEY",))}, [])


def test_package_is_not_imported_before_settings_ask_for_it() -> None:
    code = "import sys, services.tool.__main__, services.tool.mcp.__main__; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_without_the_package_the_settings_are_refused_with_the_command() -> None:
    hide = "import runpy, sys; sys.modules['mcp'] = None; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
    env = {
        **os.environ,
        "QINGYU_TOOL__MCP": '{"peer": {"command": "true"}}',
        "QINGYU_TOOL__MODULES": '["tests.tool.few"]',
    }
    for module in ("services.tool", "services.tool.mcp"):
        ended = subprocess.run(
            [sys.executable, "-c", hide, module], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        assert ended.returncode == 2
        assert "the package mcp is not installed; run: pip install 'qingyu-ai[mcp]'" in ended.stdout + ended.stderr


def test_program_of_a_worker_that_is_killed_is_killed() -> None:
    code = (
        "import asyncio, sys\n"
        "from qingyu_ai.settings import McpServer\n"
        "from services.tool.mcp.servers import McpServers\n"
        "async def main():\n"
        "    async with McpServers({'peer': McpServer(command='sleep', args=('999',), connect_seconds=60)}, []):\n"
        "        pass\n"
        "asyncio.run(main())\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    try:
        me = psutil.Process(worker.pid)
        eventually_sync(lambda: any("999" in p.cmdline() for p in me.children()), timeout=20)
        [child] = me.children()
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    eventually_sync(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
