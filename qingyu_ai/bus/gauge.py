"""How full the streams are, looked at apart from every clock: a broker that hangs must not hold up a lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from . import subjects, topology
from .transport import Backlog, Bus, Headers, Subscription, Usage
from .transport_errors import TransportError

log = structlog.get_logger(__name__)

EVERY = 1.0
"""Seconds between looks."""

LOG_FULL = 0.9
"""Share of the log's room above which its oldest messages are about to go."""

LOG_MARGIN = 5.0
"""Seconds by which the log's oldest message must be older than the oldest open call."""

RECORDS_FULL = 0.98
"""Share of the record bucket above which no new call begins: a worker could not claim it."""

OUTDATED = 10.0
"""Seconds after which a backlog is not known any more: workers are added and removed by it, and an old one misleads."""

REMEMBERED = 60.0
"""Seconds for which the open calls of a bridge that is silent are still counted: its callers may resume them elsewhere."""


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
        token: of this bridge.
        oldest_open: when the oldest open call of this bridge began, unix seconds; 0: there is none.
    """

    def __init__(self, bus: Bus, token: str, oldest_open: Callable[[], float]) -> None:
        self._bus = bus
        self._token = token
        self._oldest_open = oldest_open
        self._task: asyncio.Task[None] | None = None
        self._interest: Subscription | None = None
        self._others: dict[str, tuple[float, float]] = {}
        """By bridge: when its oldest open call began, and when it said so."""
        self.log_has_room = True
        self.records_have_room = True
        self.generations: dict[str, str] = {}
        """By stream: which one there is now. A stream that was not looked at yet is not there."""
        self.usage: dict[str, Usage] = {}
        """By stream, at the last look."""
        self._backlogs: dict[str, tuple[Backlog, float]] = {}
        """By kind of worker: what waits for it, and when that was seen."""

    async def start(self) -> None:
        """Begin to look, and to hear of other bridges."""
        self._interest = await self._bus.subscribe(f"{subjects.OPEN}.*", self._on_open)
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
        if self._interest is not None:
            await self._interest.stop()

    def backlog(self, kind: str) -> Backlog | None:
        """What waits for a kind of worker; None: it is not known now."""
        seen = self._backlogs.get(kind)
        return seen[0] if seen is not None and time.monotonic() - seen[1] < OUTDATED else None

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
        self._bus.publish(f"{subjects.OPEN}.{self._token}", str(self._oldest_open()).encode())
        for stream in topology.WATCHED:
            usage = self.usage[stream] = await self._bus.used(stream)
            self.generations[stream] = usage.generation
        for kind, queue in topology.QUEUES.items():
            self._backlogs[kind] = await self._bus.backlog(queue), time.monotonic()
        now = time.time()
        self.log_has_room = log_has_room(self.usage[topology.LOG], self._oldest_anywhere(now), now)
        records = self.usage[topology.CALLS]
        self.records_have_room = records.max_bytes <= 0 or records.bytes < RECORDS_FULL * records.max_bytes

    def _on_open(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        bridge = subject.rpartition(".")[2]
        if bridge != self._token:
            self._others[bridge] = float(data), time.time()

    def _oldest_anywhere(self, now: float) -> float:
        self._others = {b: (began, at) for b, (began, at) in self._others.items() if now - at < REMEMBERED}
        began = [self._oldest_open(), *(began for began, _ in self._others.values())]
        return min((b for b in began if b), default=now)
