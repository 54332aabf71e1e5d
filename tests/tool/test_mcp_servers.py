"""Tools of real MCP servers, by pipes and by HTTP, through a tool worker, a real nats-server and a real bridge."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.settings import McpServer
from services.tool.registry import Registry
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.ports import free_port
from tests.tool.mcp_worker import OFFERED, Http, is_listed, not_listed, program, tool_worker
from tests.tool.mcp_worker import http as http
from tests.tool.mcp_worker import peer as peer
from tests.tool.mcp_worker import short_waits as short_waits
from tests.tool.test_service import bus_settings as bus_settings
from tests.tool.test_service import call, listed
from tests.waiting import eventually


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
