"""From the settings to a database that a worker may use."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import structlog

from qingyu_ai.settings import Settings, SettingsError

from .database import Database, addresses
from .migrate import check, migrate

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 1.0


async def open_database(settings: Settings, stop: asyncio.Event) -> Database | None:
    """Wait until the database is there, see that it is what this release needs, and open the pool.

    The database that `up` started is prepared here; one that a DSN names is prepared by `python -m services.rag.migrate` only.

    Returns:
        The open pool; None: it was to stop before the database was there.

    Raises:
        SettingsError: starting again changes nothing: the database has another version, or the worker's role may see
            more than a worker must.
    """
    waiting = False
    while not stop.is_set():
        try:
            worker = await asyncio.to_thread(_prepare, settings)
        except psycopg.OperationalError as e:
            if not waiting:
                log.warning("waits_for_database", error=type(e).__name__, setting="QINGYU_RAG__DSN")
            waiting = True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), AGAIN_SECONDS)
            continue
        database = Database(worker, settings.rag)
        await database.open()
        return database
    return None


def _prepare(settings: Settings) -> str:
    worker, owner = addresses(settings)
    try:
        if not settings.rag.dsn.get_secret_value():
            for name in migrate(owner, worker):
                log.info("database_migrated", step=name)
        check(worker)
    except psycopg.OperationalError as e:
        if isinstance(e, psycopg.errors.InvalidPassword | psycopg.errors.InvalidAuthorizationSpecification) or (
            "password authentication failed" in str(e)
        ):
            raise SettingsError(
                "the database does not let in the role of QINGYU_RAG__DSN: correct its password"
            ) from None
        raise
    return worker
