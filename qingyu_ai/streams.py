"""`python -m qingyu_ai.streams`: make the streams and buckets of the bus, as the settings want them. Safe to run again."""

from __future__ import annotations

import asyncio

import structlog

from .bus.connection import NatsBus
from .process import run
from .settings import Settings

log = structlog.get_logger(__name__)

ROLE = "setup"


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Make what is missing, and bring the rest up to the settings.

    Raises:
        TransportError: there is no broker, or it makes no such streams; the message says why.
    """
    bus = await NatsBus.open(settings.nats.servers, ROLE, on_closed=stop.set)
    try:
        await bus.ensure_topology(settings.bus)
        log.info("streams_made", replicas=settings.bus.replicas)
    finally:
        await bus.close()


if __name__ == "__main__":
    run(ROLE, main)
