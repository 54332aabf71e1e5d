"""MCP servers that are programs: what they get, and that they end; and what there is without the package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from qingyu_ai.settings import SettingsError
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.optional import require_package
from tests.tool.mcp_worker import PEER, program, tool_worker
from tests.tool.mcp_worker import short_waits as short_waits
from tests.tool.test_service import bus_settings as bus_settings
from tests.tool.test_service import call
from tests.waiting import eventually, eventually_sync

require_package("mcp")
from services.tool.mcp.servers import McpServers  # noqa: E402


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
