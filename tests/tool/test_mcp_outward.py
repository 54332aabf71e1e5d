"""Our tools, as a real MCP client sees them: `python -m services.tool.mcp` as a process, by pipes and by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.tool.proofs import Proofs
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.optional import ROOT, require_package
from tests.ports import free_port
from tests.tokens import private_key, private_pem, public_pem
from tests.tool import few
from tests.tool.test_service import bus_settings as bus_settings
from tests.tool.test_service import tool_worker
from tests.waiting import eventually

require_package("mcp")
from mcp import Client, StdioServerParameters, types  # noqa: E402

MODULE = "services.tool.mcp"


def environment(bridge: Bridge, user: str = "", key: Path | None = None) -> dict[str, str]:
    bus = bridge.settings.bus
    signing = {"QINGYU_TOOL__MCP_SIGNING_KEY_FILE": str(key)} if key else {}
    return {
        **signing,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "NATS_URL": ",".join(bridge.settings.nats.servers),
        "QINGYU_BUS__REPLICAS": str(bus.replicas),
        "QINGYU_BUS__TOOL_LEASE_SECONDS": str(bus.tool_lease_seconds),
        "QINGYU_TOOL__MCP_USER": user,
    }


@contextlib.asynccontextmanager
async def client(
    bridge: Bridge, folder: Path, way: str = "pipes auto", *, user: str = "", key: Path | None = None
) -> AsyncIterator[Client]:
    """A client of the process; `folder` is where the process runs, so that no qingyu.yaml decides anything."""
    transport, mode = way.split()
    changes: list[object] = []

    async def on_message(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changes.append(message)

    env = environment(bridge, user, key)
    if transport == "pipes":
        server: Any = StdioServerParameters(command=sys.executable, args=["-m", MODULE], env=env, cwd=folder)
        async with Client(server, mode=mode, message_handler=on_message, cache=None) as one:
            one.changes = changes  # type: ignore[attr-defined]
            yield one
        return
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, "--http", str(port), env=env, cwd=folder, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        while line := await process.stderr.readline():
            if b"mcp_listens" in line:
                break
        async with Client(f"http://127.0.0.1:{port}/mcp", mode=mode, message_handler=on_message, cache=None) as one:
            one.changes = changes  # type: ignore[attr-defined]
            yield one
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


ways = pytest.mark.parametrize("way", ["pipes auto", "pipes legacy", "http auto", "http legacy"])


async def names(one: Client) -> list[str]:
    return [tool.name for tool in (await one.list_tools()).tools]


def text(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


@ways
async def test_client_lists_and_calls_our_tools(bridge: Bridge, tmp_path: Path, way: str) -> None:
    async with tool_worker(bridge), client(bridge, tmp_path, way) as one:
        await eventually(lambda: names_are(one, ["defect", "look_up", "mine", "never", "twice"]))
        twice = next(tool for tool in (await one.list_tools()).tools if tool.name == "twice")
        assert twice.description == "加倍一个数。"
        assert twice.input_schema == few.twice.schema
        assert twice.annotations is not None
        assert twice.annotations.idempotent_hint
        result = await one.call_tool("twice", {"number": 21})
        assert not result.is_error
        assert (json.loads(text(result)), result.structured_content) == ({"twice": 42}, {"twice": 42})


async def names_are(one: Client, expected: list[str]) -> bool:
    return await names(one) == expected


async def test_errors_are_tool_errors_in_both_languages(bridge: Bridge, tmp_path: Path) -> None:
    async with tool_worker(bridge), client(bridge, tmp_path) as one:
        await eventually(lambda: names_are(one, ["defect", "look_up", "mine", "never", "twice"]))
        for name, parameters, *words in (
            ("twice", {"number": 13}, "13 is not to be doubled", "13 不可加倍"),
            ("twice", {"number": "x"}, "parameters.number", "it must be a whole number", "请求无效"),
            ("never", {}, "0.2 seconds", "已被终止"),
            ("defect", {}, "please report this id"),
            ("thrice", {}, "There is no tool thrice now", "目前没有工具 thrice"),
            ("mine", {}, "is for verified users", "仅限已验证用户使用"),
        ):
            result = await one.call_tool(name, parameters)
            assert result.is_error, name
            for word in words:
                assert word in text(result), text(result)


async def test_configured_user_is_who_calls(bridge: Bridge, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    key.write_text(private_pem(private_key("EdDSA")))
    public.write_text(public_pem(private_key("EdDSA")))
    proofs = await Proofs.open(public)
    async with tool_worker(bridge, proofs=proofs), client(bridge, tmp_path, user="管理员", key=key) as one:
        await eventually(lambda: names_are(one, ["defect", "look_up", "mine", "never", "twice"]))
        assert (await one.call_tool("mine")).structured_content == {"user": "管理员", "project": ""}
    await proofs.close()


@ways
async def test_client_hears_that_workers_come_and_go(bridge: Bridge, tmp_path: Path, way: str) -> None:
    async with client(bridge, tmp_path, way) as one:
        heard: list[object] = one.changes  # type: ignore[attr-defined]

        async def listen() -> None:
            async with one.listen(tools_list_changed=True) as changes:
                async for change in changes:
                    heard.append(change)

        assert await names(one) == []
        listening = asyncio.create_task(listen()) if way.endswith("auto") else None
        await asyncio.sleep(0.2)
        async with tool_worker(bridge, [few.twice]):
            await eventually(lambda: heard)
            assert await names(one) == ["twice"]
            heard.clear()
        await eventually(lambda: heard)
        assert await names(one) == []
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize("how", ["its input is closed", "it is told to stop"])
def test_process_ends_with_its_client_and_writes_nothing_but_messages(bridge: Bridge, tmp_path: Path, how: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        env=environment(bridge), cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    if how == "its input is closed":
        process.stdin.close()
    else:
        process.terminate()
    assert process.wait(10) == 0
    assert process.stdout.read() == b""
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def test_port_that_is_taken_is_named(bridge: Bridge, tmp_path: Path) -> None:
    taken = str(bridge.port)
    ended = subprocess.run(
        [sys.executable, "-m", MODULE, "--http", taken],
        env=environment(bridge), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{taken}" in ended.stderr
    assert ended.stdout == ""
