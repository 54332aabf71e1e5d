"""`python -m bridge`: wire a bridge process, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio

import structlog

from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.discovery import Presence
from qingyu_ai.doors.login import Login
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.process import open_operations, run, watch_events
from qingyu_ai.settings import Settings, without_password

from . import server
from .doors import Doors
from .handlers import Edge
from .health import Health
from .metrics import Metrics

log = structlog.get_logger(__name__)

CUT_SECONDS = 0.5
"""Before the end of a drain, in which the callers that are still there are sent away."""


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a bridge until `stop` is set."""
    doors = await Doors.open(settings.bridge)
    bus = await NatsBus.open(
        settings.nats.servers, "bridge", on_closed=stop.set, login=Login.of("bridge", settings.nats)
    )
    await bus.ensure_topology(settings.bus)
    # A single server that restarts has lost its memory streams; they must be there before the readers look for them.
    bus.on_reconnect(lambda: bus.ensure_topology(settings.bus))
    publisher = Publisher(bus, settings.bus)
    watch_events(publisher)
    presence = Presence(bus, f"{bus.inbox}.srv.presence", publisher)
    caller = Caller(bus, settings.bus, presence, publisher)
    metrics = Metrics()
    metrics.watch(caller)
    checks = Health(bus, presence, settings, metrics, doors.unready)
    edge = Edge(caller, checks, settings, metrics, doors)

    operations = open_operations("bridge", settings.bridge.metrics_host, settings.bridge.metrics_port, checks.unready)
    await presence.start()
    await caller.start()
    await checks.start()
    grpc_server, port = await server.start(edge, checks, settings.bridge)
    log.info(
        "bridge_started",
        address=f"{settings.bridge.host}:{port}",
        operations=operations.port,
        authentication=settings.bridge.authentication,
        nats=[without_password(server) for server in settings.nats.servers],
    )

    await stop.wait()

    log.info("bridge_drains", open=edge.open, seconds=settings.bridge.drain_seconds)
    await checks.drain()
    await server.quiet(edge)
    # Until then a caller who leaves leaves by itself.
    asyncio.get_running_loop().call_later(max(0.0, settings.bridge.drain_seconds - CUT_SECONDS), edge.leaving.send_away)
    await grpc_server.stop(settings.bridge.drain_seconds)
    checks.stop()
    await caller.stop()
    await presence.stop()
    operations.stop()
    await doors.close()
    await bus.close()
    log.info("bridge_stopped")


if __name__ == "__main__":
    run("bridge", main)
