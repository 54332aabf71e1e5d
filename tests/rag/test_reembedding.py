"""A new model for vectors takes over user by user, while searching goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from qingyu_ai.bus.deadline import Deadline
from services.rag.database import Database
from services.rag.faults import DatabaseDown
from services.rag.reembedding import Reembedding
from services.rag.searching import Reader
from services.rag.store import Store
from services.rag.stored import Model, Vector
from tests.rag.conftest import Address
from tests.rag.parts import Counts
from tests.rag.texts import MODEL, OTHER, at, put, soon, texts, vector
from tests.waiting import eventually


class Counting(Counts):
    """Counts what it is asked, and may stop in the middle."""

    def __init__(self, model: Model = OTHER) -> None:
        super().__init__(model)
        self.broken = False
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def embed(self, asked: Sequence[str], deadline: Deadline) -> Sequence[Vector]:
        self.asked += asked
        if self.broken:
            raise DatabaseDown
        await self.may_go.wait()
        return [vector(text, self.model) for text in asked]


@pytest.fixture
def embedder() -> Counting:
    return Counting()


@pytest.fixture
def reembedding(database: Database, store: Store, embedder: Counting) -> Reembedding:
    return Reembedding(database, store, embedder)


async def models(address: Address) -> set[tuple[str, str]]:
    """Which user has vectors of which model."""
    async with await psycopg.AsyncConnection.connect(address.owner) as connection:
        rows = await (await connection.execute("SELECT DISTINCT user_id, model FROM rag.vectors")).fetchall()
    return set(rows)


async def test_every_users_vectors_are_made_anew_and_the_old_ones_go(
    store: Store, reader: Reader, reembedding: Reembedding, address: Address
) -> None:
    for user in ("u", "v", "w"):
        await put(store, user, "d", f"{user}的灯。{user}的雨。", at(1))
    assert await reembedding.round() == 3
    assert await models(address) == {("u", OTHER.key), ("v", OTHER.key), ("w", OTHER.key)}
    assert (await store.standing("u", "", soon())).serving == OTHER.key
    assert await texts(reader, "u", OTHER) == ["u的灯。", "u的雨。"]
    assert await reembedding.round() == 0


async def test_search_goes_on_with_the_old_vectors_until_all_new_ones_are_there(
    store: Store, reader: Reader, reembedding: Reembedding, embedder: Counting
) -> None:
    await put(store, "u", "d", "灯。雨。", at(1))
    embedder.may_go.clear()
    running = asyncio.create_task(reembedding.round())
    await eventually(lambda: embedder.asked)
    assert (await store.standing("u", "", soon())).serving == MODEL.key
    assert await texts(reader, "u") == ["灯。", "雨。"]
    embedder.may_go.set()
    assert await running == 1
    assert (await store.standing("u", "", soon())).serving == OTHER.key


async def test_documents_that_come_and_go_meanwhile_are_neither_lost_nor_in_the_way(
    store: Store, reader: Reader, reembedding: Reembedding, embedder: Counting
) -> None:
    await put(store, "u", "stays", "灯。", at(1))
    await put(store, "u", "goes", "雨。", at(2))
    embedder.may_go.clear()
    running = asyncio.create_task(reembedding.round())
    await eventually(lambda: embedder.asked)
    await store.delete("u", "goes", at(3), soon())
    await put(store, "u", "both", "云。", at(4), models=(MODEL, OTHER), target=OTHER)
    await put(store, "u", "old", "风。", at(5))  # by a worker that still has the old settings
    embedder.may_go.set()
    assert await running == 1
    assert await texts(reader, "u", OTHER) == ["云。", "风。", "灯。"]
    assert "云。" not in embedder.asked


async def test_text_that_has_a_new_vector_already_is_not_sent_again(
    store: Store, reembedding: Reembedding, embedder: Counting
) -> None:
    await put(store, "u", "d1", "灯。", at(1), models=(MODEL, OTHER))
    await put(store, "u", "d2", "灯。雨。灯。", at(2))
    assert await reembedding.round() == 1
    assert embedder.asked == ["雨。"]


async def test_two_workers_do_not_embed_the_same_user_at_once(
    database: Database, store: Store, reembedding: Reembedding, embedder: Counting
) -> None:
    await put(store, "u", "d", "灯。雨。", at(1))
    second = Counting()
    embedder.may_go.clear()
    running = asyncio.create_task(reembedding.round())
    await eventually(lambda: embedder.asked)
    assert not await Reembedding(database, store, second).tenant("u")
    embedder.may_go.set()
    assert await running == 1
    assert second.asked == []


async def test_worker_that_was_lost_or_failed_is_followed_by_another_that_goes_on(
    database: Database, store: Store, embedder: Counting, address: Address
) -> None:
    many = "".join(f"第{n}句。" for n in range(100))
    await put(store, "u", "d", many, at(1))
    first = Reembedding(database, store, embedder)
    embedder.may_go.clear()
    lost = asyncio.create_task(first.tenant("u"))
    await eventually(lambda: embedder.asked)
    lost.cancel()
    await asyncio.wait([lost])
    with psycopg.connect(address.owner) as connection:
        connection.execute("UPDATE rag.tenants SET embedding_until = now() - interval '1 second'")
    failing = Counting()
    failing.broken = True
    with pytest.raises(DatabaseDown):
        await Reembedding(database, store, failing).round()
    assert (await store.standing("u", "", soon())).serving == MODEL.key
    with psycopg.connect(address.owner) as connection:
        connection.execute("UPDATE rag.tenants SET embedding_until = NULL")
    assert await Reembedding(database, store, Counting()).round() == 1


async def test_document_without_a_vector_of_the_model_that_serves_gets_one(
    store: Store, reader: Reader, database: Database
) -> None:
    """A worker that cannot ask the model that serves stores what it can; one that can makes it good."""
    await put(store, "u", "d1", "灯。", at(1))
    await put(store, "u", "d2", "雨。", at(2), models=(OTHER,), target=OTHER)
    assert await texts(reader, "u") == ["灯。"]
    again = Counting(MODEL)
    assert await Reembedding(database, store, again).round() == 1
    assert again.asked == ["雨。"]
    assert await texts(reader, "u") == ["灯。", "雨。"]


async def test_old_and_new_settings_side_by_side_do_not_undo_each_other(
    database: Database, store: Store, address: Address
) -> None:
    await put(store, "u", "d", "灯。", at(1))
    old, new = Counting(MODEL), Counting(OTHER)
    before, after = Reembedding(database, store, old), Reembedding(database, store, new)
    assert await before.round() == 0
    assert await after.round() == 1
    assert await before.round() == 0
    await put(store, "u", "d2", "雨。", at(2))  # by a worker with the old settings: it has no vector of the new model
    assert await before.round() == 0
    assert await after.round() == 1
    assert await models(address) == {("u", OTHER.key)}
    assert (old.asked, new.asked) == ([], ["灯。", "雨。"])


async def test_settings_that_were_taken_back_are_followed_once_no_worker_has_the_new_ones(
    database: Database, store: Store, address: Address
) -> None:
    await put(store, "u", "d", "灯。", at(1))
    before, after = Reembedding(database, store, Counting(MODEL)), Reembedding(database, store, Counting(OTHER))
    assert (await before.round(), await after.round()) == (0, 1)

    def gone(model: Model) -> None:
        """Nobody with it has been heard of for long."""
        with psycopg.connect(address.owner) as connection:
            connection.execute(
                "UPDATE rag.targets SET until = now() - interval '1 second' WHERE model = %s", (model.key,)
            )

    gone(OTHER)
    assert await before.round() == 1
    assert await models(address) == {("u", MODEL.key)}
    assert await after.round() == 1  # and forward again: named anew, it is the newest
    assert await before.round() == 0
