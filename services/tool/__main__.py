"""`python -m services.tool`: wire a tool worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings, SettingsError

from .announcing import OtherTool
from .definition import Tool
from .loading import VARIABLE, load, settings_of
from .mcp import require_mcp
from .offered import Source
from .process import serve
from .proofs import Proofs
from .sandbox import Sandbox


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a tool worker until `stop` is set."""
    own = settings.tool
    tools = load(own.modules)
    proofs = await Proofs.open(own.caller_keys_file)
    given = {name: value for name, value in settings_of(own).items() if any(tool.name == name for tool in tools)}
    async with (
        Sandbox(
            tools,
            children=own.children,
            wait_seconds=own.wait_seconds,
            memory_bytes=own.child_memory_bytes,
            settings=given,
        ) as sandbox,
        _mcp_servers(settings, tools) as servers,
    ):
        await sandbox.start()  # a tool that cannot be imported there is told now, not at its first call
        try:
            await worker_process(
                "tool",
                settings,
                own,
                stop,
                lambda bus, worker: serve(
                    bus, worker, tools, sandbox, settings.bus.tool_lease_seconds, servers, proofs
                ),
            )
        except OtherTool as e:
            raise SettingsError(f"{VARIABLE}: {e}") from None
        finally:
            await proofs.close()


@contextlib.asynccontextmanager
async def _mcp_servers(settings: Settings, tools: Sequence[Tool[Any, Any]]) -> AsyncIterator[list[Source]]:
    """The MCP servers that the settings name.

    Raises:
        SettingsError: their settings do not hold, or the package for them is not installed.
    """
    if not settings.tool.mcp:
        yield []
        return
    require_mcp("QINGYU_TOOL__MCP names MCP servers")
    from .mcp.servers import McpServers  # a second to import, for those who need it

    async with McpServers(settings.tool.mcp, [tool.name for tool in tools]) as servers:
        yield [servers]


if __name__ == "__main__":
    run("tool", main)
