"""Wires tools to a worker. A team that has more to start than tools writes its own `__main__` around this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.worker import Worker

from .definition import Tool
from .registry import Announcer, Registry
from .sandbox import Sandbox
from .service import ToolService


def serve(bus: Bus, worker: Worker, tools: Sequence[Tool[Any, Any]], sandbox: Sandbox, lease_seconds: float) -> None:
    """Have a worker answer for tools, and announce them for as long as it serves.

    Args:
        sandbox: with the computed ones of the tools; the caller closes it.
        lease_seconds: how long an announcement counts; the same in all workers.
    """
    registry = Registry(bus, lease_seconds)
    service = ToolService(tools, registry, sandbox, Asker(bus))
    announcer = Announcer(bus, worker.token, lease_seconds, service.listings)
    worker.rpc(routes.LIST_TOOLS, service.list)
    for tool in tools:
        worker.rpc(routes.CALL_TOOL, service.call, token=tool.name)
        worker.rpc(routes.GET_TOOL_INFO, service.info, token=tool.name)
    worker.beside(registry.start, registry.stop)
    worker.beside(announcer.start, announcer.stop)
