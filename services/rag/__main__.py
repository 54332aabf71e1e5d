"""`python -m services.rag`: wire a retrieval worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import partial

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings
from services.llm.meters import Meters

from .beside import SWITCH_SECONDS
from .meters import show
from .opening import open_database
from .upkeep import keep_up, watch
from .wiring import Models, wire


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a retrieval worker until `stop` is set."""
    sys.setswitchinterval(SWITCH_SECONDS)
    models = Models(settings.rag, Meters())
    database = await open_database(settings, stop)
    if database is None:
        return
    show(database)
    wired = wire(database, models, settings.rag)
    upkeep: list[asyncio.Task[None]] = []
    publishers: list[Publisher] = []

    async def begin(worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        upkeep.append(loop.create_task(keep_up(wired.store, wired.reembedding, settings.bus)))
        upkeep.append(loop.create_task(wired.teller.run(publishers[0].document)))
        upkeep.append(loop.create_task(watch(database, partial(worker.tell, "store"))))

    async def end() -> None:
        for task in upkeep:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def serve(bus: NatsBus, worker: Worker) -> None:
        worker.rpc(routes.SEARCH, wired.service.search)
        worker.job(routes.INDEX_DOCUMENT, wired.service.index)
        worker.job(routes.DELETE_DOCUMENT, wired.service.delete)
        worker.beside(partial(begin, worker), end)

    try:
        metadata = {"embedding": models.target.model.key, "store": await database.state()}
        publishes = publishers.append
        await worker_process("rag", settings, settings.rag, stop, serve, metadata=metadata, publishes=publishes)
    finally:
        await database.close()
        models.close()


if __name__ == "__main__":
    run("rag", main)
