"""Our tools, as an MCP server's: all that the workers announce, called over the bus."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from typing import Any

import structlog
from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

from qingyu_ai import __version__, routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import tool_pb2 as pb
from services.tool.registry import Listing, Registry

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks whether the list of tools has changed. A tool whose worker vanished leaves it by no event."""

MOST_SESSIONS = 1000
"""Of clients of the older revisions that are told of changes; beyond, the oldest is not told any more."""

MARGIN_SECONDS = 5.0
"""For the way of a call, beside what its tool may take."""

INSTRUCTIONS = "网络小说平台的工具。Tools of a platform for Chinese web novels."

Context = ServerRequestContext[Any, Any]


class OurTools:
    """The handlers of the server.

    Args:
        user: as whom tools are called; empty: as nobody.
    """

    def __init__(self, registry: Registry, asker: Asker, user: str) -> None:
        self._registry = registry
        self._asker = asker
        self._user = user
        self._changes = InMemorySubscriptionBus()
        self._sessions: deque[ServerSession] = deque(maxlen=MOST_SESSIONS)
        self._watcher: asyncio.Task[None] | None = None
        self.server: Server[Any] = _Server(
            "qingyu-ai",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscriptions_listen=ListenHandler(self._changes),
        )
        self.server.add_notification_handler("notifications/initialized", types.NotificationParams, self._on_session)

    def start(self) -> None:
        """Begin to tell clients when the list changes."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """Tell nobody any more."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _list(self, context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(listing) for listing in self._registry.list()])

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        listing = self._registry.find(params.name)
        if listing is None:
            return _error(f"There is no tool {params.name} now", f"目前没有工具 {params.name}")
        request = pb.ToolRequest(
            tool_name=listing.name,
            parameters=json.dumps(params.arguments or {}, ensure_ascii=False),
            user_id=self._user,
        )
        seconds = listing.wait_seconds + listing.seconds + MARGIN_SECONDS
        identity = secrets.token_hex(16)
        call = Call(
            identity, f"mcp_{identity}", self._user, "", (), Deadline.after(seconds), "", verified=bool(self._user)
        )
        try:
            answer = await self._asker.ask(call, routes.CALL_TOOL, request, part="1", seconds=seconds)
        except Fault as e:
            return _error(e.message, e.chinese)
        if not answer.success:
            return types.CallToolResult(content=[types.TextContent(text=answer.error)], is_error=True)
        plain = json.loads(answer.result)
        return types.CallToolResult(
            content=[types.TextContent(text=answer.result)],
            # Revisions before 2026-07-28 have objects only.
            structured_content=plain if isinstance(plain, dict) else None,
        )

    async def _on_session(self, context: Context, params: types.NotificationParams | None) -> None:
        self._sessions.append(context.session)

    async def _watch(self) -> None:
        before = self._digests()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._digests()
            if now == before:
                continue
            before = now
            await self._changes.publish(ToolsListChanged())
            for session in list(self._sessions):
                try:
                    await session.send_tool_list_changed()
                except Exception as e:  # a client that is gone; its transport says so in its own way
                    self._sessions.remove(session)
                    log.info("mcp_client_gone", error=repr(e))

    def _digests(self) -> list[tuple[str, str, str]]:
        return [(one.name, one.digest, one.description) for one in self._registry.list()]


class _Server(Server[Any]):
    """Says of itself that its list changes, whatever transport asks."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changing = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(changing, experimental_capabilities, extensions)


def _tool(listing: Listing) -> types.Tool:
    return types.Tool(
        name=listing.name,
        description=listing.description,
        input_schema=listing.json_schema or {"type": "object"},
        annotations=types.ToolAnnotations(idempotent_hint=listing.repeatable),
    )


def _error(english: str, chinese: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=f"{english} / {chinese}")], is_error=True)
