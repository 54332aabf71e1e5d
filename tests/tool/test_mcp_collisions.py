"""Tools of MCP servers whose names are taken: by each other, by ours, by another worker."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from qingyu_ai.settings import McpServer, SettingsError
from services.tool.announcing import Announcer, OtherTool
from services.tool.registry import Listing, Registry
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.optional import require_package
from tests.tool.mcp_worker import OFFERED, program, tool_worker
from tests.tool.mcp_worker import short_waits as short_waits
from tests.tool.test_service import bus_settings as bus_settings
from tests.tool.test_service import call, listed
from tests.waiting import eventually

require_package("mcp")
from services.tool.mcp import servers  # noqa: E402
from services.tool.mcp.servers import McpServers  # noqa: E402


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


async def test_name_of_a_tool_of_ours_is_taken() -> None:
    with pytest.raises(SettingsError, match="'peer_double' of our own and 'double' of the MCP server peer"):
        async with McpServers({"peer": program()}, ["peer_double"]):
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
    with pytest.raises(OtherTool, match="'peer_double' is served by worker w1"):
        async with tool_worker(bridge, {"peer": program()}):
            pass
    registry = Registry(bridge.bus, bridge.settings.bus.tool_lease_seconds)
    await registry.start()
    await eventually(lambda: registry.list() == [other("peer_double")], timeout=5)  # nothing is left behind
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
