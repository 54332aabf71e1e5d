"""What a worker does beside its calls."""

from __future__ import annotations

import asyncio
import re

import psycopg
import pytest

from qingyu_ai.settings import Bus
from services.rag import upkeep
from services.rag.database import Database
from services.rag.reembedding import Reembedding
from services.rag.store import Store
from services.rag.upkeep import keep_up, tombstone_seconds
from tests.rag.conftest import Address
from tests.rag.parts import Counts
from tests.rag.texts import OTHER, at, put, soon
from tests.waiting import eventually


async def test_worker_makes_new_vectors_and_forgets_old_tombstones_by_itself(
    database: Database, store: Store, address: Address
) -> None:
    await put(store, "u", "d", "灯。", at(1))
    for n, document_id in enumerate(("old", "young")):
        await store.delete("u", document_id, at(n), soon())
    age = tombstone_seconds(Bus())
    with psycopg.connect(address.owner) as connection:
        connection.execute(
            "UPDATE rag.submissions SET at = now() - make_interval(secs => %s) WHERE document_id = 'old'", (age + 60,)
        )
    keeping = asyncio.create_task(keep_up(store, Reembedding(database, store, Counts(OTHER)), Bus()))

    async def done() -> bool:
        async with await psycopg.AsyncConnection.connect(address.owner) as connection:
            rows = await (await connection.execute("SELECT document_id FROM rag.submissions ORDER BY 1")).fetchall()
        return rows == [("d",), ("young",)] and (await store.standing("u", "", soon())).serving == OTHER.key

    await eventually(done)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.wait([keeping])


def test_deletion_is_remembered_for_longer_than_any_job_can_wait() -> None:
    bus = Bus()
    assert tombstone_seconds(bus) > bus.record_age_seconds + bus.longest_deadline_seconds


async def test_how_the_database_is_is_told_at_once_and_when_it_changes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOOK_EVERY_SECONDS", 0.0)
    told: list[str] = []
    looks = 0
    state = database.state

    async def counted() -> str:
        nonlocal looks
        looks += 1
        return await state()

    monkeypatch.setattr(database, "state", counted)
    watching = asyncio.create_task(upkeep.watch(database, told.append))
    await eventually(lambda: looks >= 3)
    assert len(told) == 1
    assert re.fullmatch(r"PostgreSQL \d\d\.\d+", told[0])
    await database.close()
    await eventually(lambda: len(told) == 2)
    assert told[1] == "PostgreSQL: no connection within 5 s"
    watching.cancel()
    await asyncio.wait([watching])
