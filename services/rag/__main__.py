"""`python -m services.rag`: wire a retrieval worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.worker import Worker
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings
from services.llm.meters import Meters

from .opening import open_database
from .store import Store
from .wiring import Models, wire

log = structlog.get_logger(__name__)

TIDY_SECONDS = 3600.0
"""Between two rounds of forgetting what no late job can undo any more."""


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a retrieval worker until `stop` is set."""
    models = Models(settings.rag, Meters())
    database = await open_database(settings, stop)
    if database is None:
        return
    wired = wire(database, models, settings.rag)
    beside: list[asyncio.Task[None]] = []

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        beside.append(loop.create_task(wired.reembedding.run()))
        beside.append(loop.create_task(tidy(wired.store, settings.bus.record_age_seconds)))

    async def end() -> None:
        for task in beside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def serve(bus: NatsBus, worker: Worker) -> None:
        worker.rpc(routes.SEARCH, wired.service.search)
        worker.job(routes.INDEX_DOCUMENT, wired.service.index)
        worker.job(routes.DELETE_DOCUMENT, wired.service.delete)
        worker.beside(begin, end)

    try:
        metadata = {"embedding": models.target.model.key}
        await worker_process("rag", settings, settings.rag, stop, serve, metadata=metadata)
    finally:
        await database.close()
        models.close()


async def tidy(store: Store, job_seconds: float) -> None:
    """Forget deletions that no older submission can undo any more, every hour.

    Args:
        job_seconds: how long a job may wait in its queue.
    """
    while True:
        try:
            forgotten = await store.forget_tombstones(job_seconds, Deadline.after(60))
            log.debug("tombstones_forgotten", documents=forgotten)
        except Fault as e:
            log.warning("tombstones_kept", reason=e.reason)
        await asyncio.sleep(TIDY_SECONDS)


if __name__ == "__main__":
    run("rag", main)
