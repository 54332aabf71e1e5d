"""The MCP servers of a worker, as a source of tools: whatever comes and goes at them comes and goes on our lists."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import structlog
from mcp import types

from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.settings import McpServer, SettingsError
from services.tool.announcing import OtherTool
from services.tool.offered import Offering
from services.tool.registry import Listing

from .connection import Connection
from .names import Collision, Original, name_all
from .remote import RemoteTool
from .schemas import UnfitSchema

log = structlog.get_logger(__name__)

VARIABLE = "QINGYU_TOOL__MCP"

AGAIN_SECONDS = 5.0
"""Until it is tried again to offer a tool that could not be offered: another worker served another one by its name, or the
bus did not answer."""


class McpServers:
    """See `offered.Source`. Connected while the block lasts.

    Args:
        servers: by short name.
        own: the names of the worker's other tools.

    Raises:
        SettingsError: the environment lacks a variable that the settings name.
    """

    def __init__(self, servers: Mapping[str, McpServer], own: Iterable[str]) -> None:
        self._settings = servers
        self._own = tuple(own)
        self._connections = {
            name: Connection(name, one, lambda tools, name=name: self._on_tools(name, tools))  # type: ignore[misc]
            for name, one in servers.items()
        }
        self._tools: dict[str, Sequence[types.Tool]] = {}
        """By server, what it listed last, also while it is away."""
        self._away = set(servers)
        self._offered: dict[str, RemoteTool] = {}
        """By name here: served."""
        self._listed: set[str] = set()
        """Those of them that are on the lists."""
        self._left_out: dict[str, str] = {}
        """By name here, why a tool is not offered."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<McpServers {sorted(self._settings)}: {sorted(self._listed)}; away: {sorted(self._away)}>"

    async def __aenter__(self) -> Self:
        """Connect to all servers. One that cannot be reached is tried again later.

        Raises:
            SettingsError: two tools would have one name.
        """
        for connection in self._connections.values():
            connection.start()
        try:
            await asyncio.gather(*(connection.tried() for connection in self._connections.values()))
            _, collisions = self._names()
            if collisions:
                raise SettingsError(_refusal(collisions))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave all servers. Calls that still run end."""
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    @property
    def listings(self) -> Sequence[Listing]:
        """See `offered.Source.listings`."""
        return [tool.listing for tool in self._made().values() if tool.listing.category not in self._away]

    async def start(self, offering: Offering) -> None:
        """See `offered.Source.start`."""
        self._changed.clear()
        await self._reconcile(offering)
        self._task = asyncio.get_running_loop().create_task(self._keep(offering))

    async def stop(self) -> None:
        """See `offered.Source.stop`."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _on_tools(self, server: str, tools: Sequence[types.Tool] | None) -> None:
        if tools is None:
            self._away.add(server)
        else:
            self._away.discard(server)
            chosen = self._settings[server].tools
            self._tools[server] = [tool for tool in tools if not chosen or tool.name in chosen]
        self._changed.set()

    async def _keep(self, offering: Offering) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._reconcile(offering)
            except (OtherTool, TransportError) as e:
                log.warning("mcp_tools_not_offered", error=str(e))
                # Not all workers at the same moment: each would find the others' schema, and none would be first.
                await asyncio.sleep(AGAIN_SECONDS * random.uniform(0.5, 1.5))
                self._changed.set()

    async def _reconcile(self, offering: Offering) -> None:
        """Have what is offered be what there is.

        Raises:
            OtherTool, TransportError: the first that could not be offered; everything else is.
        """
        there = self._made()
        failures: list[OtherTool | TransportError] = []
        for name in [name for name in self._offered if name not in there]:
            await self._drop(offering, name, failures)
        for name, tool in there.items():
            try:
                if tool.listing.category in self._away:
                    await self._unlist(offering, name)
                elif self._offered.get(name) is not tool or name not in self._listed:
                    self._offered[name] = tool
                    self._listed.discard(name)
                    await offering.offer(tool)
                    self._listed.add(name)
            except (OtherTool, TransportError) as e:
                failures.append(e)
        if failures:
            raise failures[0]

    async def _drop(self, offering: Offering, name: str, failures: list[OtherTool | TransportError]) -> None:
        try:
            await offering.drop(name)
        except TransportError as e:
            failures.append(e)
            return
        del self._offered[name]
        self._listed.discard(name)

    async def _unlist(self, offering: Offering, name: str) -> None:
        if name in self._listed:
            await offering.unlist(name)
            self._listed.discard(name)

    def _made(self) -> dict[str, RemoteTool]:
        """The tools that there are, by name here; one that has not changed stays the same object."""
        named, collisions = self._names()
        left_out = {collision.name: str(collision) for collision in collisions}
        listed = {(server, tool.name): tool for server, tools in self._tools.items() for tool in tools}
        made = {}
        for name, original in named.items():
            tool = listed[original.server, original.name]
            try:
                one = RemoteTool(name, tool, self._settings[original.server], self._connections[original.server])
            except UnfitSchema as e:
                left_out[name] = f"{original}: {e}"
                continue
            before = self._offered.get(name)
            made[name] = before if before is not None and before.listing == one.listing else one
        for name, reason in left_out.items():
            if self._left_out.get(name) != reason:
                log.error("mcp_tool_left_out", tool=name, reason=reason)
        self._left_out = left_out
        return made

    def _names(self) -> tuple[Mapping[str, Original], tuple[Collision, ...]]:
        """In the order of the settings, so that all workers give a name to the same tool."""
        there = [server for server in self._settings if server in self._tools]
        return name_all({server: [tool.name for tool in self._tools[server]] for server in there}, self._own)


def _refusal(collisions: Iterable[Collision]) -> str:
    said = "; ".join(map(str, collisions))
    return f"{VARIABLE}: {said}. Give a server another name, or choose among its tools with its setting `tools`"
