"""The tools that an agent may call, as the loop sees them; and the box that holds those of the bus."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Expired, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.routes import CALL_TOOL
from services.tool.registry import Listing, Registry

log = structlog.get_logger(__name__)

MARGIN_SECONDS = 1.0
"""Beyond a tool's own time: for the way there and back. The worker ends a tool by itself."""

BUSY_FIRST, BUSY_LONGEST = 0.25, 2.0
"""Seconds before a worker that was busy is asked again, doubled each time. It has not run the tool, so also what must not be
repeated may be."""

SETTLE_SECONDS, LOOK_SECONDS = 0.5, 0.02
"""How long a list that is just being read is waited for, and how often it is looked at."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call."""

    result: str = ""
    """JSON; empty when the tool failed."""
    code: int = 0
    """0: it succeeded; else a canonical status code."""
    message: str = ""
    """Why not, in English and Chinese; safe to show."""


class Toolbox(Protocol):
    """Tools by name."""

    async def settle(self, names: Iterable[str]) -> None:
        """Wait until these can be found, if there are any: a process that has just started does not know all tools yet."""
        ...

    def find(self, name: str) -> Listing | None:
        """A tool that there is now."""
        ...

    @property
    def names(self) -> list[str]:
        """All tools that there are now."""
        ...

    async def call(
        self, call: Call, name: str, arguments: str, *, part: str, seconds: float, patience: float
    ) -> ToolResult:
        """Call a tool as the caller of `call`. Whatever goes wrong with it is a result.

        Args:
            arguments: a JSON object.
            part: what the question is in the call; no two that run at once have the same.
            seconds: for its turn and its work, after which the result is of no use.
            patience: seconds for which it is asked again as long as it is too busy to begin.
        """
        ...


def failed(fault: Fault) -> ToolResult:
    """What a model and a caller are told of a fault."""
    return ToolResult(code=int(fault.code) or int(Code.UNKNOWN), message=f"{fault.message} / {fault.chinese}")


class BusToolbox:
    """The tools of all tool workers.

    Args:
        registry: which there are.
        asker: how they are reached.
    """

    def __init__(self, registry: Registry, asker: Asker) -> None:
        self._registry = registry
        self._asker = asker
        self._starting = asyncio.Lock()
        self._settled_at: float | None = None
        """When the list is complete, seconds on `time.monotonic()`; None: nobody reads it yet."""

    def __repr__(self) -> str:
        return f"<BusToolbox {self.names}>"

    async def settle(self, names: Iterable[str]) -> None:
        """See `Toolbox.settle`."""
        wanted = list(names)
        if not wanted:
            return
        async with self._starting:
            if self._settled_at is None:
                try:
                    await self._registry.start()
                except TransportError as e:  # then the tools are missing, which the answer says
                    log.warning("tools_not_listed", error=str(e))
                    return
                self._settled_at = time.monotonic() + SETTLE_SECONDS
        for _ in range(round(SETTLE_SECONDS / LOOK_SECONDS)):
            if time.monotonic() >= self._settled_at or all(self.find(name) for name in wanted):
                return
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def names(self) -> list[str]:
        """See `Toolbox.names`."""
        return [listing.name for listing in self._registry.list()]

    def find(self, name: str) -> Listing | None:
        """See `Toolbox.find`."""
        return self._registry.find(name)

    async def call(
        self, call: Call, name: str, arguments: str, *, part: str, seconds: float, patience: float
    ) -> ToolResult:
        """See `Toolbox.call`."""
        request = pb.ToolRequest(tool_name=name, parameters=arguments, user_id=call.user, project_id=call.project)
        try:
            reply = await self._ask(call, request, part, seconds, Deadline.after(patience))
        except Expired:
            message = (
                f"The tool {name} did not answer within {seconds:.3g} s / 工具 {name} 在 {seconds:.3g} 秒内没有回答"
            )
            return ToolResult(code=int(Code.DEADLINE_EXCEEDED), message=message)
        except Fault as e:
            return failed(e)
        if not reply.success:
            code = reply.status.code or int(Code.UNKNOWN)
            return ToolResult(
                code=code, message=reply.error or reply.status.message or f"{name} failed / {name} 执行失败"
            )
        return ToolResult(reply.result)

    async def _ask(
        self, call: Call, request: pb.ToolRequest, part: str, seconds: float, patience: Deadline
    ) -> pb.ToolResponse:
        wait = BUSY_FIRST
        while True:
            try:
                return await self._asker.ask(call, CALL_TOOL, request, part=part, seconds=seconds)
            except Fault as e:
                if e.reason != "OVERLOADED" or patience.remaining < wait:
                    raise
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # not all that wait at the same moment
            wait = min(BUSY_LONGEST, 2 * wait)
