"""A tool of an MCP server, as the service offers it."""

from __future__ import annotations

import asyncio
import secrets

import structlog
from mcp import MCPError, types

from qingyu_ai.bus.handler import Call
from qingyu_ai.settings import McpServer
from services.tool.errors import ToolDefect, ToolServerAway, ToolTimeout
from services.tool.registry import Listing
from services.tool.schema import digest_of

from .checking import read
from .connection import Connection, ServerAway
from .results import failed, json_of
from .schemas import checkable, parameters_of, refuse_unfit

log = structlog.get_logger(__name__)

LONGEST_DESCRIPTION = 4000
"""Characters; what is beyond is cut."""


class RemoteTool:
    """See `offered.Offered`.

    Args:
        name: what it is called here.
        tool: as its server lists it.

    Raises:
        UnfitSchema: its schema cannot be passed on.
    """

    def __init__(self, name: str, tool: types.Tool, settings: McpServer, connection: Connection) -> None:
        refuse_unfit(tool.input_schema)
        self._original = tool.name
        self._settings = settings
        self._connection = connection
        self._checked = checkable(tool.input_schema)
        self.listing = Listing(
            name=name,
            description=_description(tool, connection.name),
            category=connection.name,
            parameters=parameters_of(tool.input_schema),
            json_schema=tool.input_schema,
            requires_auth=settings.requires_auth,
            repeatable=_is_repeatable(tool) if settings.repeatable is None else settings.repeatable,
            seconds=settings.seconds,
            digest=digest_of(name, tool.input_schema),
        )

    def __repr__(self) -> str:
        return f"<RemoteTool {self.listing.name}: {self._original!r} of {self._connection.name}>"

    async def run(self, call: Call, parameters: str) -> str:
        """See `offered.Offered.run`."""
        name = self.listing.name
        asked = read(name, self._checked, parameters)
        try:
            async with asyncio.timeout(self._settings.seconds):
                result = await self._connection.call(self._original, asked)
        except TimeoutError:
            log.warning("tool_timed_out", tool=name, seconds=self._settings.seconds, server=self._connection.name)
            raise ToolTimeout(name, self._settings.seconds) from None
        except ServerAway:
            raise ToolServerAway(name, self._connection.name) from None
        except MCPError as e:
            raise failed(name, e.message) from None
        except (ValueError, RuntimeError) as e:  # it answered what its own schema, or MCP, does not allow
            error_id = secrets.token_hex(6)
            log.error("mcp_answer_does_not_hold", tool=name, error_id=error_id, error=str(e)[:1000])
            raise ToolDefect(name, error_id) from None
        return json_of(name, result, self._settings.max_output_bytes)


def _description(tool: types.Tool, server: str) -> str:
    said = (tool.description or tool.title or tool.name).strip()[:LONGEST_DESCRIPTION]
    return f"{said}\n（MCP 服务 {server} 的工具 {tool.name}）"


def _is_repeatable(tool: types.Tool) -> bool:
    """What the server says of it; a hint, but its operator has chosen the server."""
    hints = tool.annotations
    return hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
