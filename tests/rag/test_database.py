"""A database that is down, dies, stalls or is full is said in words, and nothing has to be restarted when it is well again."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Expired, Fault, Overloaded, retryable
from qingyu_ai.settings import Rag
from services.rag.database import WORKER_ROLE, Database
from services.rag.faults import Collided, DatabaseDown, DatabaseFull, fault_of
from services.rag.migrate import migrate
from services.rag.searching import Reader
from services.rag.store import Store
from tests.postgres import PostgresProcess
from tests.rag.conftest import Address
from tests.rag.texts import at, put, soon, texts
from tests.waiting import eventually

OWN = Rag(connect_seconds=2.0)


@pytest.fixture
def mortal() -> Iterator[PostgresProcess]:
    """A server that a test may end."""
    process = PostgresProcess()
    process.start()
    migrate(process.dsn("postgres"), process.dsn("postgres", "worker", WORKER_ROLE))
    yield process
    process.close()


@pytest.fixture
async def pool(mortal: PostgresProcess) -> AsyncIterator[Database]:
    """A worker's pool on it."""
    opened = Database(mortal.dsn("postgres", "worker", WORKER_ROLE), OWN)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_database_that_goes_and_comes_back_is_used_again_without_a_restart(
    mortal: PostgresProcess, pool: Database, how: signal.Signals
) -> None:
    store, reader = Store(pool, OWN), Reader(pool, OWN)
    await asyncio.gather(*(put(store, "u", f"d{n}", "灯。", at(n)) for n in range(8)))  # several connections
    mortal.stop(how)
    with pytest.raises(DatabaseDown) as down:
        await texts(reader, "u")
    assert retryable(down.value.status)
    mortal.start()

    async def answers() -> bool:
        return await pool.answers()

    await eventually(answers)
    assert await texts(reader, "u") == ["灯。"] * 8
    await put(store, "u", "d0", "亮。", at(100))
    assert (await texts(reader, "u"))[0] == "亮。"


async def test_worker_may_start_before_its_database(mortal: PostgresProcess) -> None:
    mortal.stop()
    early = Database(mortal.dsn("postgres", "worker", WORKER_ROLE), OWN)
    await early.open()
    try:
        with pytest.raises(DatabaseDown):
            await texts(Reader(early, OWN), "u")
        mortal.start()
        await eventually(early.answers)
        assert await texts(Reader(early, OWN), "u") == []
    finally:
        await early.close()


async def test_write_whose_database_dies_under_it_is_whole_or_not_there(
    mortal: PostgresProcess, pool: Database
) -> None:
    """Killed while many writes are on their way: whoever was told that it is stored finds it, and nobody finds a half."""
    store, reader = Store(pool, OWN), Reader(pool, OWN)
    text = "".join(f"第{n}句话各不相同。" for n in range(60))
    writes = [asyncio.create_task(put(store, "u", f"d{n:02}", text, at(n))) for n in range(40)]
    await eventually(lambda: sum(task.done() for task in writes) >= 5)
    mortal.crash()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert failures
    assert {type(failure) for failure in failures} == {DatabaseDown}
    mortal.start()
    await eventually(pool.answers)
    found = await texts(reader, "u")
    assert len(found) % 60 == 0
    assert len(found) // 60 >= 40 - len(failures)


async def test_statement_ends_at_the_callers_deadline(database: Database) -> None:
    with pytest.raises(Expired):
        async with database.tenant("u", Deadline.after(0.3)) as connection:
            await connection.execute("SELECT pg_sleep(60)")
    async with database.tenant("u", soon()) as connection:  # and the limit goes with it
        row = await (await connection.execute("SELECT current_setting('statement_timeout')")).fetchone()
    assert row is not None
    assert row[0] not in ("300ms", "0")


async def test_writer_that_waits_for_another_ends_at_its_deadline_and_changes_nothing(
    store: Store, reader: Reader, address: Address
) -> None:
    await put(store, "u", "d", "灯。", at(1))
    with psycopg.connect(address.owner) as other:
        other.execute("SELECT * FROM rag.submissions FOR UPDATE")
        with pytest.raises(Expired):
            await store.delete("u", "d", at(2), Deadline.after(0.5))
    assert await texts(reader, "u") == ["灯。"]
    assert (await store.delete("u", "d", at(2), soon())).found


async def test_caller_who_is_cancelled_leaves_no_half_and_no_hold(
    store: Store, reader: Reader, address: Address
) -> None:
    await put(store, "u", "d", "灯。", at(1))
    with psycopg.connect(address.owner) as other:
        other.execute("SELECT * FROM rag.submissions FOR UPDATE")
        writing = asyncio.create_task(put(store, "u", "d", "亮。", at(2)))

        async def waits() -> bool:
            with psycopg.connect(address.owner) as look:
                row = look.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
            return row is not None and row[0] > 0

        await eventually(waits)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert await texts(reader, "u") == ["灯。"]
    await put(store, "u", "d", "雨。", at(3))
    assert await texts(reader, "u") == ["雨。"]


@pytest.fixture
async def narrow(address: Address) -> AsyncIterator[Database]:
    """A pool that is soon used up."""
    opened = Database(address.worker, Rag(connections=3, connect_seconds=0.3, writers=1, waiting=40))
    await opened.open()
    yield opened
    await opened.close()


async def test_burst_on_a_pool_that_is_used_up_waits_and_is_done(narrow: Database) -> None:
    """For longer than a connection may take to come about: nobody takes a busy database for one that is away."""

    async def hold() -> None:
        async with narrow.tenant("u", soon()) as connection:
            await connection.execute("SELECT pg_sleep(0.1)")

    burst = [asyncio.create_task(hold()) for _ in range(20)]
    await eventually(lambda: narrow.room.waiting == 18)
    assert await narrow.state() != "PostgreSQL: no connection within 0.3 s"  # it has a connection of its own
    await asyncio.gather(*burst)
    assert (narrow.room.used, narrow.room.waiting) == (0, 0)


async def test_call_that_waits_for_a_busy_pool_ends_at_its_deadline_and_one_too_many_is_refused(
    narrow: Database,
) -> None:
    async def hold(deadline: Deadline) -> None:
        async with narrow.tenant("u", deadline) as connection:
            await connection.execute("SELECT pg_sleep(1.5)")

    holding = [asyncio.create_task(hold(soon())) for _ in range(2)]
    await eventually(lambda: narrow.room.used == 2)
    short = [asyncio.create_task(hold(Deadline.after(0.8))) for _ in range(40)]
    await eventually(lambda: narrow.room.waiting == 40)
    with pytest.raises(Overloaded):
        await hold(soon())
    assert {type(one) for one in await asyncio.gather(*short, return_exceptions=True)} == {Expired}
    await asyncio.gather(*holding)
    assert await narrow.answers()


async def test_writers_leave_connections_to_readers(narrow: Database) -> None:
    async def write() -> None:
        async with narrow.writing("u", soon()) as connection:
            await connection.execute("SELECT pg_sleep(0.3)")

    writing = [asyncio.create_task(write()) for _ in range(5)]
    await eventually(lambda: narrow.writers.waiting == 4)
    async with narrow.tenant("u", soon()):
        assert narrow.writers.waiting >= 3
    await asyncio.gather(*writing)


async def test_those_who_wait_are_told_at_once_when_the_database_is_away(mortal: PostgresProcess) -> None:
    own = Rag(connections=2, connect_seconds=1.0)
    pool = Database(mortal.dsn("postgres", "worker", WORKER_ROLE), own)
    await pool.open()
    assert await pool.answers()
    mortal.stop()

    async def call() -> None:
        async with pool.tenant("u", soon()):
            pass

    told = await asyncio.gather(*(call() for _ in range(30)), return_exceptions=True)  # one after the other: 30 seconds
    await pool.close()
    assert {type(one) for one in told} == {DatabaseDown}


@pytest.mark.parametrize(
    ("error", "fault", "code"),
    [
        (errors.DiskFull, DatabaseFull, Code.RESOURCE_EXHAUSTED),
        (errors.OutOfMemory, DatabaseFull, Code.RESOURCE_EXHAUSTED),
        (errors.AdminShutdown, DatabaseDown, Code.UNAVAILABLE),
        (errors.CannotConnectNow, DatabaseDown, Code.UNAVAILABLE),
        (errors.TooManyConnections, DatabaseDown, Code.UNAVAILABLE),
        (errors.ReadOnlySqlTransaction, DatabaseDown, Code.UNAVAILABLE),
        (errors.ConnectionFailure, DatabaseDown, Code.UNAVAILABLE),
        (errors.DeadlockDetected, Collided, Code.UNAVAILABLE),
        (errors.SerializationFailure, Collided, Code.UNAVAILABLE),
        (errors.QueryCanceled, Expired, Code.DEADLINE_EXCEEDED),
        (psycopg.OperationalError, DatabaseDown, Code.UNAVAILABLE),
    ],
)
def test_error_of_the_database_is_a_fault_in_words_that_are_ours(
    error: type[psycopg.Error], fault: type[Fault], code: Code
) -> None:
    found = fault_of(error('could not extend file "base/16384/2619": rag.pieces 灯'))
    assert isinstance(found, fault)
    assert found.code is code
    assert retryable(found.status)
    assert "base" not in found.message + found.chinese
    assert "rag." not in found.message + found.chinese


@pytest.mark.parametrize("error", [errors.UndefinedTable, errors.UniqueViolation, errors.InsufficientPrivilege])
def test_defect_of_ours_is_no_fault(error: type[psycopg.Error]) -> None:
    assert fault_of(error("x")) is None


@pytest.fixture
def small_disk() -> Iterator[str]:
    """A disk of its own with little room."""
    with tempfile.TemporaryDirectory(prefix="qingyu-small-") as folder:
        Path(folder).chmod(0o755)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "qingyu-small", folder], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


async def test_full_disk_is_said_and_changes_nothing_and_passes(
    mortal: PostgresProcess, pool: Database, small_disk: str
) -> None:
    with psycopg.connect(mortal.dsn("postgres"), autocommit=True) as owner:
        owner.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
        owner.execute("ALTER TABLE rag.pieces SET TABLESPACE small")
    store, reader = Store(pool, OWN), Reader(pool, OWN)
    await put(store, "u", "d", "灯。", at(1))
    large = "".join(secrets.token_hex(500) + "。" for _ in range(4000))
    with pytest.raises(DatabaseFull):
        await put(store, "u", "d", large, at(2))
    assert await texts(reader, "u") == ["灯。"]
    with psycopg.connect(mortal.dsn("postgres"), autocommit=True) as owner:
        owner.execute("ALTER TABLE rag.pieces SET TABLESPACE pg_default")
    await put(store, "u", "d", "雨。", at(3))
    assert await texts(reader, "u") == ["雨。"]
    mortal.stop()  # before its disk goes
