"""Runs a retrieval worker: the database, the three rows, and what is kept up beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.process import worker_process
from qingyu_ai.settings import Settings

from .opening import open_database
from .reembedding import Embedder, Reembedding
from .searching import Reader
from .service import Parts, RagService
from .store import Store
from .stored import Model
from .upkeep import keep_up


async def run_worker(
    settings: Settings, stop: asyncio.Event, parts: Parts, embedders: Mapping[str, Embedder], target: Model
) -> None:
    """Run a worker until `stop` is set.

    Args:
        parts, embedders, target: see `RagService`.

    Raises:
        SettingsError: the database is not one that this worker may use.
    """
    database = await open_database(settings, stop)
    if database is None:
        return
    store, reader = Store(database, settings.rag), Reader(database, settings.rag)
    service = RagService(store, reader, parts, embedders, target, settings.rag)

    def serve(bus: NatsBus, worker: Worker) -> None:
        worker.rpc(routes.SEARCH, service.search)
        worker.job(routes.INDEX_DOCUMENT, service.index)
        worker.job(routes.DELETE_DOCUMENT, service.delete)

    reembedding = Reembedding(database, store, embedders[target.key])
    keeping = asyncio.create_task(keep_up(store, reembedding, settings.bus))
    try:
        await worker_process("rag", settings, settings.rag, stop, serve, metadata={"model": target.key})
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await database.close()
