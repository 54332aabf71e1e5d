"""How full the streams are, looked at apart from every clock: a broker that hangs must not hold up a lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from . import topology
from .errors import TransportError
from .transport import Bus, Usage

log = structlog.get_logger(__name__)

EVERY = 1.0
"""Seconds between looks."""

LOG_FULL = 0.9
"""Share of the log's room above which its oldest messages are about to go."""

LOG_MARGIN = 5.0
"""Seconds by which the log's oldest message must be older than the oldest open call."""

RECORDS_FULL = 0.98
"""Share of the record bucket above which no new call begins: a worker could not claim it."""


def log_has_room(usage: Usage, oldest_open: float, now: float) -> bool:
    """Decide whether a new call may begin: a full log drops its oldest messages, which must not be an open call's.

    Args:
        usage: of the log.
        oldest_open: when the oldest open call began, unix seconds; `now` if there is none.
        now: unix seconds.
    """
    if usage.max_bytes <= 0 or usage.bytes < LOG_FULL * usage.max_bytes:
        return True
    return usage.oldest_unix < oldest_open - LOG_MARGIN


class Gauge:
    """What a bridge knows of the streams.

    Args:
        bus: the broker.
        oldest_open: when the oldest open call of this bridge began, unix seconds; now, if there is none.
    """

    def __init__(self, bus: Bus, oldest_open: Callable[[], float]) -> None:
        self._bus = bus
        self._oldest_open = oldest_open
        self._task: asyncio.Task[None] | None = None
        self.log_has_room = True
        self.records_have_room = True
        self.log_generation = ""
        """Which log there is now; empty: not looked yet."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        while True:
            try:
                await self._look()
            except TransportError as e:
                log.debug("gauge_unread", error=str(e))
            except Exception:
                log.exception("gauge_failed")
            await asyncio.sleep(EVERY)

    async def _look(self) -> None:
        frames, records = await self._bus.used(topology.LOG), await self._bus.used(topology.CALLS)
        self.log_generation = frames.generation
        self.log_has_room = log_has_room(frames, self._oldest_open(), time.time())
        self.records_have_room = records.max_bytes <= 0 or records.bytes < RECORDS_FULL * records.max_bytes
