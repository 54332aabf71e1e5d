"""A tool of ours, as the service offers it: computed ones run in the sandbox, asking ones in the worker."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.handler import Call

from .definition import Tool
from .errors import ToolTimeout
from .registry import Listing, Parameter
from .sandbox import Sandbox

log = structlog.get_logger(__name__)

RPCS = {route.path: route for route in routes.ROUTES if isinstance(route, routes.Rpc)}
"""What an asking tool may ask for, by the name of the method."""


class OwnTool:
    """See `offered.Offered`.

    Args:
        sandbox: where it runs if it is computed.
        asker: how it reaches other services if it is not.
    """

    def __init__(self, tool: Tool[Any, Any], sandbox: Sandbox, asker: Asker) -> None:
        self._tool = tool
        self._sandbox = sandbox
        self._asker = asker
        self.listing = listing_of(tool, sandbox.wait_seconds if tool.is_computed else 0.0)

    def __repr__(self) -> str:
        return f"<OwnTool {self._tool.name}>"

    async def run(self, call: Call, parameters: str) -> str:
        """See `offered.Offered.run`."""
        tool = self._tool
        if tool.is_computed:
            return await self._sandbox.run(tool, parameters, call.user)
        asked = tool.read(parameters)
        try:
            async with asyncio.timeout(tool.seconds):
                return tool.encode(await tool.function(asked, _Caller(call, self._asker)))
        except TimeoutError:
            log.warning("tool_timed_out", tool=tool.name, seconds=tool.seconds)
            raise ToolTimeout(tool.name, tool.seconds) from None


class _Caller:
    """See `definition.ToolCaller`: an asking tool's way to other services, as the caller of one call."""

    def __init__(self, call: Call, asker: Asker) -> None:
        self._call = call
        self._asker = asker
        self._asked = 0

    @property
    def user(self) -> str:
        return self._call.user

    @property
    def project(self) -> str:
        return self._call.project

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._call.deadline.remaining)

    async def ask(self, path: str, request: bytes) -> bytes:
        """Ask an rpc row."""
        route = RPCS[path]
        self._asked += 1
        message = route.request.FromString(request)
        reply = await self._asker.ask(self._call, route, message, part=str(self._asked), seconds=self.seconds_left)
        return bytes(reply.SerializeToString())


def listing_of(tool: Tool[Any, Any], wait_seconds: float = 0.0) -> Listing:
    """A tool as its worker announces it.

    Args:
        wait_seconds: how long a call may wait for its turn.
    """
    return Listing(
        name=tool.name,
        description=tool.description,
        category=tool.category,
        parameters=tuple(
            Parameter(
                name=one.name,
                type=one.type,
                description=one.description,
                required=one.required,
                default_value=one.default_value,
            )
            for one in tool.parameters
        ),
        json_schema=tool.schema,
        requires_auth=tool.requires_auth,
        repeatable=tool.repeatable,
        seconds=tool.seconds,
        wait_seconds=wait_seconds,
        digest=tool.schema_digest,
    )
