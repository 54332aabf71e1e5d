"""A real PostgreSQL for each test process, and a database of its own for each test."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.settings import Rag
from services.rag.database import WORKER_ROLE, Database
from services.rag.migrate import migrate
from services.rag.searching import Reader
from services.rag.store import Store
from tests.bus.conftest import FAST, clean
from tests.nats_cluster import AnyNats
from tests.postgres import PostgresProcess

TEMPLATE = "migrated"

numbers = itertools.count(1)


@dataclass(frozen=True)
class Address:
    """A database of a test."""

    server: PostgresProcess
    name: str

    @property
    def worker(self) -> str:
        """As a worker sees it."""
        return self.server.dsn(self.name, "worker", WORKER_ROLE)

    @property
    def owner(self) -> str:
        """As its owner sees it."""
        return self.server.dsn(self.name)


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresProcess]:
    """One server for each test process."""
    process = PostgresProcess()
    process.start()
    with psycopg.connect(process.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(process.dsn(TEMPLATE), process.dsn(TEMPLATE, "worker", WORKER_ROLE))
    yield process
    process.close()


@contextmanager
def made(server: PostgresProcess, template: str) -> Iterator[Address]:
    """Make a database, and drop it afterwards: a thousand files each are slow to remove with their server."""
    name = f"test_{next(numbers)}_{secrets.token_hex(3)}"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield Address(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty(postgres_process: PostgresProcess) -> Iterator[Address]:
    """A database that was never migrated."""
    with made(postgres_process, "template1") as address:
        yield address


@pytest.fixture
def address(postgres_process: PostgresProcess) -> Iterator[Address]:
    """A database that is ready for workers."""
    with made(postgres_process, TEMPLATE) as address:
        yield address


@pytest.fixture
def own() -> Rag:
    """The settings; override to change them."""
    return Rag()


@pytest.fixture
async def database(address: Address, own: Rag) -> AsyncIterator[Database]:
    """The pool of one worker."""
    opened = Database(address.worker, own)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database, own: Rag) -> Store:
    """The write side."""
    return Store(database, own)


@pytest.fixture
def reader(database: Database, own: Rag) -> Reader:
    """The read side."""
    return Reader(database, own)


@pytest.fixture
def bus_settings() -> BusSettings:
    """Times of the bus."""
    return FAST


@pytest.fixture
async def bus(nats_process: AnyNats, bus_settings: BusSettings) -> AsyncIterator[NatsBus]:
    """A connection to a broker whose streams are this test's own."""
    await clean(nats_process, bus_settings)
    opened = await NatsBus.open(nats_process.servers, "test", on_closed=lambda: None)
    yield opened
    await opened.close()
