"""Is this system well? From the workers' own answers, asked now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from grpc_health.v1 import health, health_pb2

from qingyu_ai.bus.discovery import Presence
from qingyu_ai.bus.transport import Bus
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import services
from qingyu_ai.settings import Settings

from .metrics import Metrics

log = structlog.get_logger(__name__)

ASK_SECONDS = 0.3
"""How long HealthCheck waits for the workers' answers; they take about a millisecond."""

LOOK_EVERY = 0.5

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """HealthCheck, grpc.health.v1 and readiness, from one view of the system.

    Args:
        closed: why nobody can be let in; empty: who may can.
    """

    def __init__(
        self,
        bus: Bus,
        presence: Presence,
        settings: Settings,
        metrics: Metrics,
        closed: Callable[[], str] = lambda: "",
    ) -> None:
        self._closed = closed
        self._bus = bus
        self._presence = presence
        self._expected = settings.bridge.expected_workers
        self._metrics = metrics
        self._started = time.monotonic()
        self.servicer = health.aio.HealthServicer()
        self.draining = False
        self._task: asyncio.Task[None] | None = None

    async def check(self) -> ai.HealthResponse:
        """Answer the contract's HealthCheck."""
        await self._presence.ask_now(self._expected, ASK_SECONDS)
        counts = self._presence.counts()
        details = {"bus": "connected" if self._bus.connected else "not connected"}
        for kind in sorted({*self._expected, *counts}):
            count = counts.get(kind, 0)
            details[f"worker.{kind}"] = f"{count} running" if count else "none running"
        for part in ("model", "store"):
            details[part] = ", ".join(
                sorted({w.metadata[part] for w in self._presence.workers() if w.metadata.get(part)})
            )
            details[part] = details[part] or "none in use"
        well = self._bus.connected and all(counts.get(kind) for kind in self._expected)
        uptime = int(time.monotonic() - self._started)
        return ai.HealthResponse(status="healthy" if well else "unhealthy", details=details, uptime_seconds=uptime)

    def unready(self) -> str:
        """Why the process should get no calls; empty: it should. Called from other threads."""
        if self.draining:
            return "draining"
        if not self._bus.connected:
            return "no connection to NATS"
        if not self._presence.settled:
            return "looking for workers"
        return self._closed()

    async def start(self) -> None:
        """Keep grpc.health.v1 and the gauges up to date."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def drain(self) -> None:
        """Tell everybody that this process is going."""
        self.draining = True
        await self._tell()

    def stop(self) -> None:
        """Tell nobody anything any more."""
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        while True:
            await self._tell()
            await asyncio.sleep(LOOK_EVERY)

    async def _tell(self) -> None:
        ready = not self.unready()
        counts = self._presence.counts()
        self._metrics.connected.set(self._bus.connected)
        for kind in {*self._expected, *counts}:
            self._metrics.workers.labels(kind).set(counts.get(kind, 0))
        await self.servicer.set("", SERVING if ready else NOT_SERVING)
        for service, kinds in services().items():
            # A service serves if each kind of worker behind it that this deployment has is there.
            wanted = [kind for kind in kinds if kind in self._expected] or kinds
            there = ready and all(counts.get(kind) for kind in wanted)
            await self.servicer.set(service, SERVING if there else NOT_SERVING)
