"""`python -m qingyu_ai.streams`: make the streams and buckets of the bus, as the settings want them, in the role `setup`.

For deployments whose processes may not (`QINGYU_BUS__MAKE_STREAMS=false`). Once it has made what is missing and brought the
rest up to the settings, it ends; with `--stay` it stays, and makes again what a restart of all servers loses: what is in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import functools

import structlog

from .bus.connection import NatsBus
from .bus.transport_errors import TransportError
from .doors.login import Login
from .process import run
from .settings import Settings

log = structlog.get_logger(__name__)

ROLE = "setup"

LOOK_SECONDS = 5.0
"""Between two looks: servers that restart one after the other may lose a stream without our connection being lost."""


async def main(stay: bool, settings: Settings, stop: asyncio.Event) -> None:
    """Make them.

    Args:
        stay: go on until `stop` is set.

    Raises:
        TransportError: there is no broker, or it makes no such streams; the message says why.
    """
    bus = await NatsBus.open(settings.nats.servers, ROLE, on_closed=stop.set, login=Login.of(ROLE, settings.nats))
    making = settings.bus.model_copy(update={"make_streams": True})
    try:
        await bus.ensure_topology(making)
        log.info("streams_made", replicas=making.replicas)
        bus.on_reconnect(lambda: bus.ensure_topology(making))
        while stay and not await _stopped(stop):
            try:
                await bus.ensure_topology(making)
            except TransportError as e:
                log.warning("streams_not_made", error=str(e))
    finally:
        await bus.close()


async def _stopped(stop: asyncio.Event) -> bool:
    """Wait for a while, or until it is set."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            await stop.wait()
    except TimeoutError:
        return False
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m qingyu_ai.streams", description="Makes the streams of the bus.")
    parser.add_argument("--stay", action="store_true", help="stay, and make again what is lost")
    run(ROLE, functools.partial(main, parser.parse_args().stay))
