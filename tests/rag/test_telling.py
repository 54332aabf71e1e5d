"""Other services are told of each change to a document, once, whatever becomes of whoever made it."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events import BEGINNING, Event, subscribe
from qingyu_ai.events.documents import Note
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from services.rag import telling
from services.rag.database import Database
from services.rag.service import RagService
from services.rag.store import Store
from services.rag.telling import Teller
from tests.bus.conftest import FAST
from tests.nats_cluster import AnyNats
from tests.rag.conftest import Address
from tests.rag.parts import service
from tests.rag.texts import at, put
from tests.waiting import eventually


@pytest.fixture
def publisher(bus: NatsBus, bus_settings: BusSettings) -> Publisher:
    return Publisher(bus, bus_settings)


@pytest.fixture
def teller(database: Database) -> Teller:
    return Teller(database)


@pytest.fixture
def served(database: Database, teller: Teller) -> RagService:
    return service(database, on_stored=teller.stored)


def call(sequence: int, user: str = "u") -> Call:
    """A job's call."""
    return Call(
        f"{sequence:032x}",
        f"r{sequence}",
        user,
        "p",
        (),
        Deadline.after(20),
        "00-ab-cd-01",
        submitted=at(sequence),
        epoch=7,
    )


def chapter(document_id: str = "d", text: str = "灯灭了。雨停了。") -> rag.IndexRequest:
    return rag.IndexRequest(document_id=document_id, content=text, content_type="chapter")


async def told(nats_process: AnyNats) -> list[Event]:
    """All events that the stream has."""
    async with subscribe(nats_process.servers, since=BEGINNING, follow=False) as events:
        return [event async for event in events]


def untold(address: Address) -> int:
    """Changes that are still to be told."""
    with psycopg.connect(address.owner) as connection:
        row = connection.execute("SELECT count(*) FROM rag.untold").fetchone()
    return int(row[0]) if row else 0


async def test_each_change_is_told_once_however_often_its_job_runs(
    served: RagService, teller: Teller, publisher: Publisher, nats_process: AnyNats, address: Address
) -> None:
    for _ in range(3):
        await served.index(call(1), chapter())
        await teller.round(publisher.document)
    for _ in range(3):
        await served.delete(call(2), rag.DeleteRequest(document_id="d"))
    await teller.round(publisher.document)
    stored, removed = await told(nats_process)
    assert isinstance(stored.data, v1.DocumentIndexed)
    assert isinstance(removed.data, v1.DocumentDeleted)
    assert (stored.data.document_id, stored.data.content_type, stored.data.chunks) == ("d", "chapter", 2)
    assert stored.data.call is not None
    assert (stored.data.call.user, stored.data.call.project, stored.data.call.method) == ("u", "p", "IndexDocument")
    assert (stored.data.call.epoch, stored.attributes.traceparent) == (7, "00-ab-cd-01")
    assert removed.data.document_id == "d"
    orders = [
        one.data.submitted for one in (stored, removed) if isinstance(one.data, v1.DocumentIndexed | v1.DocumentDeleted)
    ]
    assert [(one.queue, one.sequence) for one in orders if one] == [(1, 1), (1, 2)]
    assert stored.id == f"{1:032x}.1.1"
    assert untold(address) == 0


async def test_what_changed_nothing_is_not_told(
    served: RagService, teller: Teller, publisher: Publisher, nats_process: AnyNats
) -> None:
    await served.index(call(5), chapter())
    assert (await served.index(call(4), chapter(text="旧。"))).success  # a newer one is there
    assert (await served.delete(call(3), rag.DeleteRequest(document_id="d"))).success
    assert not (await served.delete(call(6), rag.DeleteRequest(document_id="never"))).success
    await teller.round(publisher.document)
    assert [event.id for event in await told(nats_process)] == [f"{5:032x}.1.5"]


async def test_change_of_a_worker_that_is_lost_is_told_by_another(
    database: Database, teller: Teller, publisher: Publisher, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call may have been cancelled meanwhile: the document is there all the same."""
    await service(database).index(call(1), chapter())  # and dies before it can tell anybody
    await teller.round(publisher.document)
    assert await told(nats_process) == []  # perhaps it is just slow
    monkeypatch.setattr(telling, "LEFT_SECONDS", 0.0)
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.0)
    telling_ = asyncio.create_task(teller.run(publisher.document))
    await eventually(lambda: publisher.sent["document_indexed"])
    telling_.cancel()
    assert [event.name for event in await told(nats_process)] == ["document_indexed"]


async def test_two_workers_that_tell_the_same_tell_it_under_one_id(
    database: Database, publisher: Publisher, bus: NatsBus, bus_settings: BusSettings, nats_process: AnyNats
) -> None:
    served = service(database)
    for number in range(1, 30):
        await served.index(call(number), chapter(f"d{number}"))
    both = Teller(database), Teller(database)
    for one in both:
        one.stored("u")
    await asyncio.gather(both[0].round(publisher.document), both[1].round(Publisher(bus, bus_settings).document))
    found = await told(nats_process)
    assert sorted(event.id for event in found) == sorted(f"{n:032x}.1.{n}" for n in range(1, 30))


async def test_stream_that_is_gone_keeps_nobody_waiting_and_is_told_when_it_is_back(
    served: RagService,
    teller: Teller,
    bus: NatsBus,
    nats_process: AnyNats,
    address: Address,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telling, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(telling, "LEFT_SECONDS", 0.0)
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.01)
    publisher = Publisher(bus, FAST.model_copy(update={"patience_seconds": 0.2, "store_seconds": 0.1}))
    failed: list[TransportError] = []

    async def publish(note: Note) -> None:
        try:
            await publisher.document(note)
        except TransportError as e:
            failed.append(e)
            raise

    await bus.jetstream.delete_stream(topology.EVENTS)
    telling_ = asyncio.create_task(teller.run(publish))
    for number in range(1, 4):
        assert (await served.index(call(number), chapter(f"d{number}"))).success
    await eventually(lambda: len(failed) >= 3)
    assert untold(address) == 3
    await bus.ensure_topology(FAST)
    await eventually(lambda: untold(address) == 0)
    telling_.cancel()
    assert sorted(event.id for event in await told(nats_process)) == [f"{n:032x}.1.{n}" for n in range(1, 4)]


async def test_database_that_is_gone_ends_no_teller(
    database: Database, teller: Teller, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def left() -> set[str]:
        nonlocal looks
        looks += 1
        return {"u"}

    monkeypatch.setattr(telling, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(teller, "_left", left)
    await database.close()
    telling_ = asyncio.create_task(teller.run(publisher.document))
    await eventually(lambda: looks >= 3)
    assert not telling_.done()
    telling_.cancel()


@pytest.mark.parametrize("note", [Note("document_moved", b""), Note("document_indexed", b"\xff")])
async def test_note_of_another_release_does_not_hold_up_the_others(
    served: RagService,
    store: Store,
    teller: Teller,
    publisher: Publisher,
    nats_process: AnyNats,
    address: Address,
    note: Note,
) -> None:
    await put(store, "u", "odd", "灯。", at(1), note=note)
    await served.index(call(2), chapter())
    await teller.round(publisher.document)
    assert [event.id for event in await told(nats_process)] == [f"{2:032x}.1.2"]
    assert untold(address) == 0


async def test_one_user_with_more_changes_than_are_held_at_once_is_told_whole(
    store: Store, database: Database, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "EVENTS", 2)
    found: list[bytes] = []

    async def publish(note: Note) -> None:
        found.append(note.data)

    for number in range(5):
        await put(store, "u", f"d{number}", "灯。", at(number), note=Note("document_indexed", b"%d" % number))
    teller.stored("u")
    await teller.round(publish)
    assert found == [b"0", b"1", b"2", b"3", b"4"]
