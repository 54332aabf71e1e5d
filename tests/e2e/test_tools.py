"""Tool workers as processes: another team's tool as docs/adding-a-tool.md tells, a worker that dies, one that may not start."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from subprocess import PIPE, Popen, run
from sys import executable

import grpc
import psutil
import pytest

from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.contract.stubs import tool_pb2_grpc
from qingyu_ai.settings import McpServer
from tests.e2e.callers import FAST
from tests.optional import require_package
from tests.running import System, Worker
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-tool.md").read_text(encoding="utf-8")
SETTINGS = {**FAST, "QINGYU_BUS__TOOL_LEASE_SECONDS": "1.5"}


def tools(*modules: str) -> Worker:
    return Worker("services.tool", "tool", {"QINGYU_TOOL__MODULES": json.dumps(modules)})


def names(stub: tool_pb2_grpc.ToolServiceStub) -> list[str]:
    """Of what there is; asked for again, because a list that is asked of a worker as it is killed is never answered."""
    try:
        return _names(stub, 3)
    except grpc.RpcError:
        return _names(stub, 10)


def _names(stub: tool_pb2_grpc.ToolServiceStub, seconds: float) -> list[str]:
    return [one.name for one in stub.ListTools(pb.ListToolsRequest(), timeout=seconds).tools]


def test_tool_of_another_team_runs_as_the_page_tells() -> None:
    command = re.search(r"QINGYU_TOOL__MODULES='(.+?)'.* python -m services\.tool", PAGE)
    assert command is not None
    called = re.search(r'ToolRequest\(tool_name="(\w+)", parameters=\'(.+?)\'\)', PAGE)
    assert called is not None
    expected = re.search(r"print\(answer\.result\)  # (.+)", PAGE)
    assert expected is not None
    with (
        System(tools(*json.loads(command[1])), settings=SETTINGS) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        assert names(stub) == ["daily_goal"]
        request = pb.ToolRequest(tool_name=called[1], parameters=called[2], user_id="u")
        answer = stub.CallTool(request, timeout=20)
        assert (answer.success, answer.result) == (True, expected[1])


def test_code_of_the_page_is_that_of_the_example() -> None:
    example = ast.dump(ast.parse((ROOT / "examples" / "team_tools.py").read_text(encoding="utf-8")))
    [shown] = re.findall(r"```python\n(class .+?)```", PAGE, re.DOTALL)
    for line in shown.splitlines():
        if "Field(" in line:
            name, _, rest = line.strip().partition(":")
            assert ast.dump(ast.parse(f"{name}: {rest}").body[0]) in example, line
    assert "daily_goal" in example


def test_tools_of_a_worker_that_is_killed_leave_the_list_and_come_back_with_it() -> None:
    with (
        System(tools("examples.team_tools"), tools("tests.tool.few"), settings=SETTINGS) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        eventually_sync(lambda: {"daily_goal", "twice"} <= set(names(stub)), timeout=5)
        team, few = system.workers
        team.kill()
        eventually_sync(lambda: "daily_goal" not in names(stub), timeout=20)
        assert "twice" in names(stub)
        team.start()
        eventually_sync(lambda: "daily_goal" in names(stub), timeout=10)
        few.kill()
        few.start()


def test_worker_without_tools_ends_with_the_setting_named() -> None:
    with System(tools("examples.team_tools"), settings=SETTINGS) as system:
        for module, words in (("json", "has no tools"), ("no.such", "cannot be imported")):
            env = {**system.env, "QINGYU_TOOL__MODULES": json.dumps([module])}
            ended = run(
                [executable, "-m", "services.tool"], env=env, capture_output=True, text=True, timeout=30, check=False
            )
            assert ended.returncode == 2
            assert "QINGYU_TOOL__MODULES" in ended.stdout + ended.stderr
            assert words in ended.stdout + ended.stderr


def test_tools_of_an_mcp_server_live_and_die_with_the_worker() -> None:
    require_package("mcp")
    peer = str(ROOT / "tests" / "tool" / "mcp_peer.py")
    settings = {
        "QINGYU_TOOL__MCP": json.dumps({"peer": {"command": executable, "args": [peer]}}),
        "QINGYU_TOOL__MODULES": '["tests.tool.few"]',
    }
    with (
        System(Worker("services.tool", "tool", settings), tools("examples.team_tools"), settings=SETTINGS) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        assert {"peer_double", "twice"} <= set(names(stub))
        answer = stub.CallTool(
            pb.ToolRequest(tool_name="peer_double", parameters='{"number": 2}', user_id="u"), timeout=20
        )
        assert json.loads(answer.result) == {"double": 4}
        worker, _ = system.workers
        [program] = [child for child in psutil.Process(worker.pid).children() if peer in child.cmdline()]
        worker.kill()
        eventually_sync(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, timeout=5)
        eventually_sync(lambda: "peer_double" not in names(stub), timeout=20)
        worker.start()
        eventually_sync(lambda: "peer_double" in names(stub), timeout=20)


def test_mcp_servers_of_the_page_are_settings() -> None:
    named = re.search(r"^QINGYU_TOOL__MCP='(.+?)'", PAGE, re.MULTILINE)
    assert named is not None
    servers = {name: McpServer.model_validate(one) for name, one in json.loads(named[1]).items()}
    assert {bool(one.url) for one in servers.values()} == {True, False}
    rows = re.findall(r"^\| `(\w+)` \|", PAGE[PAGE.index("## Tools of an MCP server") :], re.MULTILINE)
    assert set(rows) == set(McpServer.model_fields)


def test_mcp_client_of_the_page_starts_what_there_is() -> None:
    require_package("mcp")
    [shown] = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    [server] = json.loads(shown)["mcpServers"].values()
    with System(tools("tests.tool.few"), settings=SETTINGS) as system:
        command = [executable, *server["args"]]
        assert shlex.join([server["command"], *server["args"]]) == "python -m services.tool.mcp"
        env = {**system.env, **server["env"], "NATS_URL": system.nats.url}
        with Popen(command, env=env, stdin=PIPE, stdout=PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == 1
        assert process.returncode == 0
