"""Wires tools to a worker. A team that has more to start than tools writes its own `__main__` around this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.transport import Bus, Hook
from qingyu_ai.bus.worker import Worker

from .announcing import Announcer, OtherTool
from .definition import Tool
from .offered import Offered, Source
from .own import OwnTool
from .proofs import Proofs
from .registry import Registry
from .sandbox import Sandbox
from .service import ToolService

USERS = 4
"""That can fill a worker together: each may have this part of the calls that it takes at once."""


def serve(
    bus: Bus,
    worker: Worker,
    tools: Sequence[Tool[Any, Any]],
    sandbox: Sandbox,
    lease_seconds: float,
    sources: Sequence[Source] = (),
    proofs: Proofs | None = None,
) -> None:
    """Have a worker answer for tools, and announce them for as long as it serves.

    It starts only if their names are its own, or those of workers that serve the same: until then it hears no call.

    Args:
        sandbox: with the computed ones of the tools; the caller closes it.
        lease_seconds: how long an announcement counts; the same in all workers.
        sources: of tools that come and go; the caller closes them.
        proofs: of whose a call is, for tools that want it; the caller closes them.
    """
    registry = Registry(bus, lease_seconds)
    asker = Asker(bus)
    own = [OwnTool(tool, sandbox, asker) for tool in tools]
    service = ToolService(own, registry, max(1, worker.slots // USERS), proofs)
    announcer = Announcer(bus, worker.token, lease_seconds, service.listings)
    offering = _Offering(worker, service, announcer)
    worker.rpc(routes.LIST_TOOLS, service.list)
    for tool in tools:
        worker.rpc(routes.CALL_TOOL, service.call, token=tool.name)
        worker.rpc(routes.GET_TOOL_INFO, service.info, token=tool.name)

    async def claim() -> None:
        await announcer.claim(listing for source in sources for listing in source.listings)

    worker.ahead(claim)
    worker.beside(registry.start, registry.stop)
    worker.beside(announcer.start, announcer.stop)
    for source in sources:
        worker.beside(_starts(source, offering, announcer), source.stop)


def _starts(source: Source, offering: _Offering, announcer: Announcer) -> Hook:
    async def start() -> None:
        try:
            await source.start(offering)
        except OtherTool:  # the worker does not start: what is announced by now must not be called
            await source.stop()
            await announcer.stop()
            raise

    return start


class _Offering:
    """See `offered.Offering`."""

    def __init__(self, worker: Worker, service: ToolService, announcer: Announcer) -> None:
        self._worker = worker
        self._service = service
        self._announcer = announcer

    async def offer(self, tool: Offered) -> None:
        name = tool.listing.name
        try:
            await self._announcer.check(tool.listing)
        except OtherTool:
            await self.drop(name)
            raise
        if self._service.put(tool):
            # Heard before it is listed: who reads the list calls at once.
            await self._worker.open_rpc(routes.CALL_TOOL, self._service.call, token=name)
            await self._worker.open_rpc(routes.GET_TOOL_INFO, self._service.info, token=name)
        await self._announcer.add(tool.listing)

    async def unlist(self, name: str) -> None:
        await self._announcer.remove(name)

    async def drop(self, name: str) -> None:
        await self._announcer.remove(name)
        if self._service.drop(name):
            await self._worker.close_rpc(routes.CALL_TOOL, token=name)
            await self._worker.close_rpc(routes.GET_TOOL_INFO, token=name)
