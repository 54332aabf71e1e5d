"""A tool worker that offers the tools of real MCP servers, for the tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.settings import McpServer
from services.tool.process import serve
from services.tool.sandbox import Sandbox
from tests.bridge.conftest import Bridge
from tests.optional import require_package
from tests.ports import free_port
from tests.tool import few
from tests.tool.test_service import listed
from tests.waiting import eventually, eventually_sync

require_package("mcp")
from services.tool.mcp import connection  # noqa: E402
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


async def not_listed(bridge: Bridge, name: str) -> bool:
    return name not in await listed(bridge)
