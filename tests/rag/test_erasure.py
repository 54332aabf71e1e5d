"""Everything of one user goes, in the database and on the bus, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from qingyu_ai.bus import erasing, subjects
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import Decided, Observed
from qingyu_ai.bus.owner import owner_of
from qingyu_ai.bus.record import DONE, JobMessage, running
from qingyu_ai.bus.records import Records
from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract import events_pb2 as events
from qingyu_ai.events.documents import Note
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.settings import Chat
from services.chat.session import Message, Sessions, Turn
from services.rag import erasure
from services.rag.database import Database
from services.rag.searching import Reader
from services.rag.store import Store
from tests.nats_cluster import AnyNats
from tests.rag.conftest import Address
from tests.rag.texts import at, put, soon, texts

USER, OTHER = "张三 a%", "张三"
"""Names of which one is the beginning of the other, and which must be encoded in a header."""

KINDS = {
    "vectors",
    "postings",
    "pieces",
    "documents",
    "names",
    "submissions",
    "tenants",
    "jobs",
    "records",
    "logs",
    "letters",
    "sessions",
    "untold",
    "events",
}


async def leave_traces(bus: NatsBus, store: Store, settings: BusSettings, user: str) -> None:
    """What a user leaves who chats, indexes, deletes, and has a job put aside and one that waits."""
    note = Note("document_indexed", b"")
    await put(store, user, "kept", "灯灭了。雨停了。", at(1), names=("沈砚",), note=note)
    await put(store, user, "gone", "灯。", at(2))
    await store.delete(user, "gone", at(3), soon())
    call = subjects.call_id(user, "IndexDocument", "r1")
    envelope = Envelope(call, "r1", Deadline.after(60), user=user, digest="00", inbox=subjects.log("rag", "b1", call))
    await bus.store("ai.job.rag.index", b"words", timeout=2, headers=envelope.encode(stored=True))
    chat = subjects.call_id(user, "Chat", "r2")
    job = JobMessage(1, 1, b"d", "log", "queue", owner=owner_of(user))
    await Records(bus, settings).write(chat, running(job, "w"), 0)
    for call_ in (call, chat):
        await bus.store(subjects.log("rag", "b1", call_), b"frame", timeout=2)
    sessions = Sessions(bus, settings, Chat())
    await sessions.take_turn(user, "s", chat)
    turn = Turn(user=user, session="s", replace=False, messages=[Message(role="user", content="问")])
    await sessions.store(chat, turn, 1)
    letter = bus_pb2.DeadLetter(subject="ai.job.rag.index", body=b"words", headers={"Qai-User": _encoded(envelope)})
    await bus.store(subjects.dead("rag", call, 0), letter.SerializeToString(), timeout=2)
    held = bus_pb2.Record(state=DONE, at_ms=1000)
    await Publisher(bus, settings).decided(Decided(Observed("rag", "IndexDocument", "", envelope), 1, held))


def _encoded(envelope: Envelope) -> str:
    line = next(one for one in envelope.encode(stored=True).decode().split("\r\n") if one.startswith("Qai-User"))
    return line.partition(": ")[2]


async def test_all_kinds_of_traces_are_found_erased_and_not_found_again(
    bus: NatsBus, database: Database, store: Store, reader: Reader, bus_settings: BusSettings
) -> None:
    for user in (USER, OTHER):
        await leave_traces(bus, store, bus_settings, user)
    others = await erasure.look(database, bus, OTHER)
    before, after = await erasure.erase_user(database, bus, USER)
    assert set(before) == KINDS
    assert all(before.values())
    assert not any(after.values())
    assert await erasure.look(database, bus, OTHER) == others == before
    assert await texts(reader, USER) == []
    assert await texts(reader, OTHER) == ["灯灭了。", "雨停了。"]
    assert len(await Sessions(bus, bus_settings, Chat()).take_turn(OTHER, "s", "0" * 32)) == 1


async def test_event_of_a_later_release_is_found_by_its_user(
    bus: NatsBus, bus_settings: BusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "EVENTS_AT_ONCE", 2)
    for number, user in enumerate((USER, OTHER, USER, OTHER, USER), 1):
        later = events.CallAccepted(at_unix_ms=1, call=events.Call(id=f"{number}", user=user)).SerializeToString()
        await bus.store("ai.events.v1.chat.praised.none", later + b"\xf8\x07\x01", timeout=2)
    worker = events.WorkerUp(at_unix_ms=1, worker=events.Worker(id=USER, service=USER, version=USER), slots=4)
    await bus.store("ai.events.v1.chat.worker_up.none", worker.SerializeToString(), timeout=2)
    await bus.store("ai.events.v1.chat.praised.none", b"\xff", timeout=2)
    traces = await erasing.find(bus, USER)
    assert traces.events == [1, 3, 5]
    await erasing.erase(bus, traces)
    assert (await erasing.find(bus, USER)).events == []
    assert (await erasing.find(bus, OTHER)).events == [2, 4]


async def test_user_of_whom_there_is_nothing_is_no_error(bus: NatsBus, database: Database) -> None:
    before, after = await erasure.erase_user(database, bus, "stranger")
    assert not any([*before.values(), *after.values()])


async def test_document_whose_writer_is_under_way_is_whole_or_gone_and_never_a_half(
    bus: NatsBus, database: Database, store: Store, reader: Reader
) -> None:
    writing = [asyncio.create_task(put(store, USER, f"d{n}", "灯。雨。", at(n))) for n in range(12)]
    await erasure.remove(database, USER)
    await asyncio.gather(*writing)
    found = await erasure.stored(database, USER)
    assert found["vectors"] == found["pieces"] == 2 * found["documents"]
    assert await texts(reader, USER) == ["灯。", "雨。"] * found["documents"]
    assert found["tenants"] == (1 if found["documents"] else 0)


async def test_command_counts_first_and_erases_when_told_to(
    bus: NatsBus, store: Store, bus_settings: BusSettings, address: Address, nats_process: AnyNats, tmp_path: Path
) -> None:
    await leave_traces(bus, store, bus_settings, USER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QINGYU_")}
    env = {**kept, "QINGYU_RAG__DSN": address.worker, "NATS_URL": ",".join(nats_process.servers)}

    async def command(*more: str) -> tuple[int | None, str]:
        arguments = (sys.executable, "-m", "services.rag.erasure", "--user", USER, *more)
        child = await asyncio.create_subprocess_exec(
            *arguments, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await child.communicate()
        return child.returncode, output.decode()

    status, said = await command()
    assert (status, "nothing was erased" in said) == (0, True), said
    status, said = await command("--yes")
    assert (status, "该用户的内容已全部删除" in said) == (0, True), said
    counts = {row[0]: row[1:] for row in map(str.split, said.splitlines()) if row[0] in KINDS}
    assert set(counts) == KINDS
    assert all(int(before) > 0 and int(after) == 0 for before, after in counts.values())
