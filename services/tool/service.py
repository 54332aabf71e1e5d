"""CallTool, ListTools and GetToolInfo: what a tool worker answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import structlog
from google.rpc import code_pb2

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.errors import Expired, Fault, Invalid, NotFound, Unauthenticated
from qingyu_ai.bus.handler import Call, internal
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import tool_pb2 as pb

from .definition import Tool
from .errors import InvalidParameters, SandboxUnavailable, ToolError, ToolTimeout
from .registry import Listing, Parameter, Registry
from .sandbox import Sandbox

log = structlog.get_logger(__name__)

RPCS = {route.path: route for route in routes.ROUTES if isinstance(route, routes.Rpc)}
"""What an asking tool may ask for, by the name of the method."""


class ToolService:
    """Answers for one worker process.

    Args:
        tools: of this worker.
        registry: of all workers.
        sandbox: where computed tools run.
        asker: how asking tools reach other services.
    """

    def __init__(self, tools: Iterable[Tool[Any, Any]], registry: Registry, sandbox: Sandbox, asker: Asker) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._registry = registry
        self._sandbox = sandbox
        self._asker = asker

    @property
    def listings(self) -> list[Listing]:
        """The tools of this worker, as they are announced."""
        return [listing_of(tool) for tool in self._tools.values()]

    async def call(self, call: Call, request: pb.ToolRequest) -> pb.ToolResponse:
        """Run a tool. One that fails is an answer, too: it says why.

        Raises:
            Fault: the tool did not run (no such tool, parameters that it does not take, nobody who may call it), or the caller's
                own deadline has come.
        """
        tool = self._find(request.tool_name)
        if tool.requires_auth and not call.verified:
            raise Unauthenticated(f"The tool {tool.name} is for verified users", f"工具 {tool.name} 仅限已验证用户使用")
        began = time.monotonic()
        result, status = "", common.Status(code=code_pb2.OK, message="ok")
        try:
            result = await self._run(tool, call, request.parameters)
        except InvalidParameters as e:
            raise Invalid(*((_field(v.parameter), v.english) for v in e.violations)) from None
        except ToolError as e:
            status = common.Status(code=_code_of(e), message=f"{e.english} / {e.chinese}")
        except Expired:
            raise
        except Fault as e:  # of a service that the tool asked
            status = common.Status(code=int(e.code), message=e.message)
        except Exception:
            defect = internal("tool_failed", tool=tool.name, call=call.id)
            status = common.Status(code=int(defect.code), message=defect.message)
        return pb.ToolResponse(
            result=result,
            success=not status.code,
            error=status.message if status.code else "",
            duration_ms=round((time.monotonic() - began) * 1000),
            status=status,
        )

    async def list(self, call: Call, request: pb.ListToolsRequest) -> pb.ListToolsResponse:
        """The tools of all workers."""
        return pb.ListToolsResponse(tools=[info_of(listing) for listing in self._registry.list(request.category)])

    async def info(self, call: Call, request: pb.GetToolInfoRequest) -> pb.ToolInfo:
        """One tool of this worker."""
        return info_of(listing_of(self._find(request.tool_name)))

    def _find(self, name: str) -> Tool[Any, Any]:
        tool = self._tools.get(name)
        if tool is None:
            raise NotFound("tool", "工具", name)
        return tool

    async def _run(self, tool: Tool[Any, Any], call: Call, parameters: str) -> str:
        if tool.is_computed:
            return await self._sandbox.run(tool, parameters)
        asked = tool.read(parameters)
        try:
            async with asyncio.timeout(tool.seconds):
                return tool.encode(await tool.function(asked, _Caller(call, self._asker)))
        except TimeoutError:
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


def listing_of(tool: Tool[Any, Any]) -> Listing:
    """A tool as its worker announces it."""
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
        digest=tool.schema_digest,
    )


def info_of(listing: Listing) -> pb.ToolInfo:
    """A tool as the contract describes it."""
    return pb.ToolInfo(
        name=listing.name,
        description=listing.description,
        category=listing.category,
        parameters=[pb.ToolParameter(**parameter.model_dump()) for parameter in listing.parameters],
        requires_auth=listing.requires_auth,
    )


def _field(parameter: str) -> str:
    return f"parameters.{parameter}" if parameter else "parameters"


def _code_of(error: ToolError) -> int:
    match error:
        case ToolTimeout():
            return int(code_pb2.DEADLINE_EXCEEDED)
        case SandboxUnavailable():
            return int(code_pb2.UNAVAILABLE)
        case _:
            return int(code_pb2.FAILED_PRECONDITION if error.reason == "TOOL_FAILED" else code_pb2.INTERNAL)
