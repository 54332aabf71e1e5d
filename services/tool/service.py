"""CallTool, ListTools and GetToolInfo: what a tool worker answers."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from google.rpc import code_pb2

from qingyu_ai.bus.errors import Expired, Fault, Invalid, NotFound, Overloaded
from qingyu_ai.bus.handler import Call, internal
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import tool_pb2 as pb

from .errors import InvalidParameters, SandboxBusy, SandboxUnavailable, ToolError, ToolServerAway, ToolTimeout
from .offered import Offered
from .proofs import Proofs
from .registry import Listing, Registry


class ToolService:
    """Answers for one worker process.

    Args:
        tools: of this worker, for as long as it runs; `put` and `drop` are for those that come and go.
        registry: of all workers.
        calls_of_a_user: that run or wait here at once. The worker takes a number of calls in all: none of its users may have all.
        proofs: of whose a call is, for tools that want it; None: there are no keys for them.
    """

    def __init__(
        self, tools: Iterable[Offered], registry: Registry, calls_of_a_user: int, proofs: Proofs | None = None
    ) -> None:
        self._proofs = proofs or Proofs()
        self._held: Counter[str] = Counter()
        self._calls_of_a_user = calls_of_a_user
        self._tools = {tool.listing.name: tool for tool in tools}
        self._registry = registry

    @property
    def listings(self) -> list[Listing]:
        """The tools of this worker, as they are announced."""
        return [tool.listing for tool in self._tools.values()]

    def put(self, tool: Offered) -> bool:
        """Have one more tool, in place of the one that had its name.

        Returns:
            Whether there was none.
        """
        is_new = tool.listing.name not in self._tools
        self._tools[tool.listing.name] = tool
        return is_new

    def drop(self, name: str) -> bool:
        """Have a tool no more.

        Returns:
            Whether it was there.
        """
        return self._tools.pop(name, None) is not None

    async def call(self, call: Call, request: pb.ToolRequest) -> pb.ToolResponse:
        """Run a tool. One that fails is an answer, too: it says why.

        Raises:
            Fault: the tool did not run (no such tool, parameters that it does not take, nobody who may call it, no place to
                run), or the caller's own deadline has come.
        """
        tool = self._find(request.tool_name)
        if tool.listing.requires_auth:
            self._proofs.check(call, tool.listing.name)
        with self._share(call.user):
            return await self._run(call, tool, request.parameters)

    @contextlib.contextmanager
    def _share(self, user: str) -> Iterator[None]:
        if self._held[user] >= self._calls_of_a_user:
            raise Overloaded(
                "Too many tool calls of one user run or wait here",
                "该用户同时进行的工具调用过多",
                self._calls_of_a_user,
            )
        self._held[user] += 1
        try:
            yield
        finally:
            self._held[user] -= 1
            if not self._held[user]:
                del self._held[user]

    async def _run(self, call: Call, tool: Offered, parameters: str) -> pb.ToolResponse:
        name = tool.listing.name
        began = time.monotonic()
        result, status = "", common.Status(code=code_pb2.OK, message="ok")
        try:
            result = await tool.run(call, parameters)
        except InvalidParameters as e:
            raise Invalid(*((_field(v.parameter), v.english, v.chinese) for v in e.violations)) from None
        except SandboxBusy as e:  # it did not run: whoever waits on may have it
            raise Overloaded(e.english, e.chinese) from None
        except ToolError as e:
            status = common.Status(code=_code_of(e), message=f"{e.english} / {e.chinese}", details=e.reason)
        except Expired:
            raise
        except Fault as e:  # of a service that the tool asked
            status = _status_of(e)
        except Exception:
            status = _status_of(internal("tool_failed", tool=name, call=call.id))
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
        return info_of(self._find(request.tool_name).listing)

    def _find(self, name: str) -> Offered:
        tool = self._tools.get(name)
        if tool is None:
            raise NotFound("tool", "工具", name)
        return tool


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


def _status_of(fault: Fault) -> common.Status:
    return common.Status(code=int(fault.code), message=f"{fault.message} / {fault.chinese}", details=fault.reason)


def _code_of(error: ToolError) -> int:
    match error:
        case ToolTimeout():
            return int(code_pb2.DEADLINE_EXCEEDED)
        case SandboxUnavailable() | ToolServerAway():
            return int(code_pb2.UNAVAILABLE)
        case _:
            return int(code_pb2.FAILED_PRECONDITION if error.reason == "TOOL_FAILED" else code_pb2.INTERNAL)
