"""What a worker does beside its calls: vectors of a new model, tombstones that nobody needs any more, a look at the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault
from qingyu_ai.settings import Bus

from .database import Database
from .reembedding import Reembedding
from .store import Store

log = structlog.get_logger(__name__)

EVERY_SECONDS = 3600.0
"""Between two looks at the tombstones. Every worker looks: it is one statement."""

SECONDS = 60.0
"""For that statement."""

LOOK_EVERY_SECONDS = 2.0
"""Between two looks at the database."""


def tombstone_seconds(bus: Bus) -> float:
    """How long a deletion is remembered: a job waits for `record_age_seconds` at most, and may then run up to its deadline."""
    return 2 * bus.record_age_seconds + bus.longest_deadline_seconds


async def keep_up(store: Store, reembedding: Reembedding, bus: Bus) -> None:
    """Do both until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reembedding.run())
        tasks.create_task(forget(store, tombstone_seconds(bus)))


async def watch(database: Database, tell: Callable[[str], None]) -> None:
    """Tell how the database is, at once and whenever that changes, until cancelled."""
    told = ""
    while True:
        if (state := await database.state()) != told:
            log.info("store", state=state)
            tell(state)
            told = state
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def forget(store: Store, older_seconds: float) -> None:
    """Forget tombstones, again and again. A database that is away is asked the next time."""
    while True:
        try:
            if gone := await store.forget_tombstones(older_seconds, Deadline.after(SECONDS)):
                log.info("tombstones_forgotten", count=gone)
        except Fault as e:
            log.warning("tombstones_wait", reason=e.reason)
        await asyncio.sleep(EVERY_SECONDS)
