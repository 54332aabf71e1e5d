"""The connection pool, and transactions that see one tenant. Everything that the store does to PostgreSQL goes through here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection, IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired, Invalid
from qingyu_ai.settings import Rag, Settings, SettingsError

from .faults import Collided, DatabaseDown, translated
from .room import Room

log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = AsyncConnection[Any]

WORKER_ROLE = "qingyu_rag"
"""As whom workers come to the database that `up` starts."""

TRIES = 3
"""For a transaction that collided with another."""

RECONNECT_SECONDS = 2.0
"""How long the pool itself tries to get a connection; after that the next caller has it try anew, so that a database that comes
back is found at once, however long it was away."""

_SET = "SELECT set_config('rag.user', %s, true), set_config('statement_timeout', %s, true)"


def addresses(settings: Settings) -> tuple[str, str]:
    """The database as a worker and as its owner sees it; the second is empty where the settings have none.

    Raises:
        SettingsError: no address is set, and `up` has made no database here.
    """
    own = settings.rag
    if dsn := own.dsn.get_secret_value():
        return dsn, own.owner_dsn.get_secret_value()
    folder = settings.data_dir.absolute() / "postgres"
    return (
        _local(own, folder / "worker.password", WORKER_ROLE),
        _local(own, folder / "postgres.password", "postgres"),
    )


def _local(own: Rag, password: Path, user: str) -> str:
    try:
        secret = password.read_text()
    except OSError as e:
        raise SettingsError(
            f"there is no database here: {password} cannot be read ({e.strerror}); `make up` makes one, "
            "or set QINGYU_RAG__DSN to a database of yours"
        ) from None
    return make_conninfo(host=own.host, port=own.port, dbname="postgres", user=user, password=secret)


class Database:
    """The pool. Safe for use by many tasks at once.

    Args:
        dsn: the address, as the worker's own role.
        own: the settings.
    """

    def __init__(self, dsn: str, own: Rag) -> None:
        self._own = own
        given: dict[str, Any] = {
            "application_name": "qingyu-rag",
            "connect_timeout": max(2, round(own.connect_seconds)),
            # A server that vanished without a word is noticed in half a minute, also while nothing is being sent.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
            **conninfo_to_dict(dsn),
        }
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            make_conninfo("", **given),
            min_size=1,
            max_size=own.connections,
            timeout=own.connect_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            check=AsyncConnectionPool.check_connection,  # or each connection that a restart cut would fail one call
            open=False,
            name="rag",
        )
        # One connection is nobody's: `watch` looks at the database by it, however many calls there are.
        self.room = Room(own.connections - 1, own.waiting)
        self.writers = Room(min(own.writers, own.connections - 1), own.waiting)
        """Of those, the ones that write."""

    def __repr__(self) -> str:
        return f"<Database {self.room!r}, writers {self.writers!r}>"

    async def open(self) -> None:
        """Start the pool. It does not wait for the database."""
        await self._pool.open()

    async def close(self) -> None:
        """End all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def tenant(self, user: str, deadline: Deadline, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """Run a transaction that sees what one user has, and nothing else.

        Args:
            deadline: it waits for a connection until then, and no statement goes on after it.
            snapshot: read only, and every statement sees the same moment.

        Raises:
            Invalid: there is no user.
            DatabaseDown, DatabaseFull, Expired, Collided: see `faults`.
            Overloaded: too many calls wait for a connection.
        """
        if not user or "\0" in user:
            raise Invalid(("user_id", "is required"))
        async with self._transaction(user, deadline, snapshot=snapshot) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self, user: str, deadline: Deadline) -> AsyncIterator[Connection]:
        """Run a transaction of one user that stores much. Few do so at once, so that searches find a connection.

        Raises:
            As `tenant`.
        """
        async with self.writers.turn(deadline), self.tenant(user, deadline) as connection:
            yield connection

    @asynccontextmanager
    async def nobody(self, deadline: Deadline) -> AsyncIterator[Connection]:
        """Run a transaction that sees no user's rows: for what is common to all."""
        async with self._transaction("", deadline) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, user: str, deadline: Deadline, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        async with self.room.turn(deadline), self._connection(deadline) as connection:
            limit = min(deadline.remaining, self._own.longest_query_seconds)
            if snapshot:
                await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
                await connection.set_read_only(True)
            try:
                async with connection.transaction():
                    await connection.execute(_SET, (user, f"{max(1, int(limit * 1000))}ms"))
                    yield connection
            finally:
                if snapshot and not connection.closed:
                    await connection.set_isolation_level(None)
                    await connection.set_read_only(None)

    @asynccontextmanager
    async def _connection(self, deadline: Deadline) -> AsyncIterator[Connection]:
        """Take a connection from the pool. Whoever has a turn in the room finds one there, unless the database is away: then no
        turn is worth waiting for."""
        remaining = deadline.remaining
        if remaining <= 0:
            raise Expired
        with translated():
            try:
                async with self._pool.connection(timeout=min(remaining, self._own.connect_seconds)) as connection:
                    yield connection
            except PoolTimeout:
                if remaining > self._own.connect_seconds:
                    self.room.dismiss(DatabaseDown)
                    self.writers.dismiss(DatabaseDown)
                raise

    async def repeated(self, work: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Do a transaction again when it collided with another one.

        Raises:
            Collided: it did so every time.
        """
        for n in range(TRIES):
            try:
                return await work()
            except Collided:
                if n == TRIES - 1 or deadline.passed:
                    raise
                await asyncio.sleep(0.05 * 2**n)
        raise Collided

    async def state(self) -> str:
        """How it is now, in words that HealthCheck may show."""
        try:
            async with self._pool.connection(timeout=self._own.connect_seconds) as connection:
                major, minor = divmod(connection.info.server_version, 10_000)
                return f"PostgreSQL {major}.{minor}"
        except psycopg.Error:
            return f"PostgreSQL: no connection within {self._own.connect_seconds:g} s"

    async def answers(self) -> bool:
        """Whether the database lets us in now."""
        try:
            async with self._pool.connection(timeout=self._own.connect_seconds) as connection:
                await connection.execute("SELECT 1")
        except psycopg.Error as e:
            log.warning("database_does_not_answer", error=type(e).__name__, sqlstate=e.sqlstate)
            return False
        return True
