"""One server, for as long as the worker lives: connected, listed, watched, and tried again when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from mcp import Client, MCPError, types
from mcp.client.subscriptions import SubscriptionLost
from mcp.types import CONNECTION_CLOSED, METHOD_NOT_FOUND

from qingyu_ai import __version__
from qingyu_ai.cli.backoff import Backoff
from qingyu_ai.settings import McpServer, SettingsError, env_name

from .address import address
from .program import program

log = structlog.get_logger(__name__)

MOST_TOOLS = 256
"""Of one server that are offered."""

LISTEN_AGAIN_SECONDS = 1.0

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0

OnTools = Callable[[Sequence[types.Tool] | None], None]


class ServerAway(Exception):
    """The server cannot be reached, or went away while it was asked."""


class Connection:
    """One server.

    Args:
        name: its short name in the settings.
        on_tools: told each time which tools it has; None: it is away.

    Raises:
        SettingsError: the environment lacks a variable that the settings name.
    """

    def __init__(self, name: str, settings: McpServer, on_tools: OnTools) -> None:
        self.name = name
        self._settings = settings
        self._on_tools = on_tools
        section = ("tool", "mcp", name)
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        passed = {one: _variable((*section, "pass_env"), one) for one in settings.pass_env}
        self._environment = {**path, **passed, **settings.env}
        self._headers = {one: _variable((*section, "header_env"), env) for one, env in settings.header_env.items()}
        self._client: Client | None = None
        self._look = asyncio.Event()
        """Set when there is a reason to look at the server."""
        self._tried = asyncio.Event()
        """Set when it has been tried once, whatever came of it."""
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.name}: {'away' if self._client is None else 'there'}>"

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def tried(self) -> None:
        """Wait until the server has listed its tools, or could not be reached."""
        await self._tried.wait()

    async def close(self) -> None:
        """Leave the server; a program is ended. Calls that still run end with ServerAway."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def call(self, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """Call a tool by the server's own name. To cancel it tells the server.

        Raises:
            ServerAway: the server is not there, or went away during the call.
            MCPError: the server's own error.
            ValueError, RuntimeError: the server answered what MCP does not allow.
        """
        client = self._client
        if client is None:
            raise ServerAway
        try:
            return await client.call_tool(tool, arguments)
        except MCPError as e:
            # By HTTP a server that is gone is an error like any other one: ask whether it is there.
            if e.code == CONNECTION_CLOSED or self._client is not client or not await self._is_there(client):
                self._look.set()
                raise ServerAway from None
            raise

    async def _is_there(self, client: Client) -> bool:
        if self._settings.command:
            return True
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                await client.list_tools()
        except (MCPError, TimeoutError):
            return False
        return True

    async def _keep(self) -> None:
        waits = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        while True:
            began = time.monotonic()
            try:
                await self._serve()
                reason = "it ended"
            except (
                Exception
            ) as e:  # of the transport, of its tasks, of what the server says: whatever it is, it is tried again
                reason = _reason(e)
            wait = waits.died(time.monotonic() - began)
            log.warning("mcp_server_away", server=self.name, reason=reason, again_in_seconds=wait)
            await asyncio.sleep(wait)

    async def _serve(self) -> None:
        """Connect, and stay until the server is gone.

        Raises:
            Exception: it is gone, or does not do what MCP says.
        """
        self._ended = False
        self._look.clear()
        listening: asyncio.Task[None] | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self._settings.connect_seconds):
                    client = await stack.enter_async_context(self._new_client())
                    tools = await self._list(client)
                self._client = client
                log.info("mcp_server_there", server=self.name, protocol=client.protocol_version, tools=len(tools))
                self._on_tools(tools)
                self._tried.set()
                listening = asyncio.create_task(self._listen(client))
                await self._watch(client, tools)
        finally:
            if listening is not None:
                listening.cancel()
            self._client = None
            self._on_tools(None)
            self._tried.set()

    def _new_client(self) -> Client:
        settings = self._settings
        if settings.command:
            transport = program(self.name, settings, self._environment, self._on_end)
        else:
            transport = address(settings, self._headers)
        return Client(
            transport,
            message_handler=self._on_message,
            client_info=types.Implementation(name="qingyu-ai", version=__version__),
            cache=None,  # what it lists now is what counts
        )

    async def _list(self, client: Client) -> list[types.Tool]:
        tools: list[types.Tool] = []
        cursor: str | None = None
        while len(tools) <= MOST_TOOLS:
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        if len(tools) > MOST_TOOLS:
            log.error("mcp_tools_left_out", server=self.name, most=MOST_TOOLS)
        return tools[:MOST_TOOLS]

    async def _watch(self, client: Client, tools: list[types.Tool]) -> None:
        """Look at the server whenever there is a reason; return when it has ended."""
        every = None if self._settings.command else self._settings.probe_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._look.wait()
            self._look.clear()
            if self._ended:
                return
            async with asyncio.timeout(self._settings.connect_seconds):
                now = await self._list(client)
            if now != tools:
                tools = now
                self._on_tools(tools)

    async def _listen(self, client: Client) -> None:
        """Hear of changes, as revisions of MCP since 2026-07-28 have it; those before send them by themselves."""
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        self._look.set()
            except MCPError as e:
                if e.code == METHOD_NOT_FOUND:
                    return
            except SubscriptionLost:
                self._look.set()  # something may have changed meanwhile
            except RuntimeError:  # of an older revision
                return
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _on_message(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._look.set()

    def _on_end(self) -> None:
        self._ended = True
        self._look.set()


def _variable(setting: tuple[str, ...], name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SettingsError(f"{env_name(setting)} names {name}, which is not set")
    return value


def _reason(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]
