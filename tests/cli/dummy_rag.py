"""A retrieval worker that only prepares its database, as the real one does first; then it behaves as the other dummies."""

import asyncio

from qingyu_ai.settings import load
from services.rag.opening import open_database
from tests.cli.dummy_process import log, run


async def prepare() -> None:
    """Open the database as a worker does."""
    database = await open_database(load(), asyncio.Event())
    assert database is not None
    log("rag has its database", answers=await database.answers())
    await database.close()


if __name__ == "__main__":
    asyncio.run(prepare())
    settings = load()
    run("rag", settings, settings.rag.metrics_port)
