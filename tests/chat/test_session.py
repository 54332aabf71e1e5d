"""Session memory: pure rules first, then the bucket, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.bus import record, topology
from qingyu_ai.bus.errors import Overloaded, TooLarge
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.transport_errors import ReplyTimeout
from qingyu_ai.contract.bus_pb2 import End
from qingyu_ai.settings import MIB
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.settings import Chat as ChatSettings
from services.chat.session import MAX_WAITING, Message, Session, Sessions, Turn, enter, key_of, leave, trim
from tests.bus.conftest import FAST
from tests.bus.conftest import connect as connect  # the fixture
from tests.bus.conftest import settings as settings
from tests.bus.system import Connect
from tests.waiting import eventually

A, B, C = "a" * 32, "b" * 32, "c" * 32


def turn(question: str, answer: str, *, replace: bool = False, session: str = "s", user: str = "u") -> Turn:
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Turn(user=user, session=session, replace=replace, messages=messages)


def texts(session: Session | list[Message]) -> list[str]:
    return [m.content for m in (session.messages if isinstance(session, Session) else session)]


def test_turn_is_stored_whole_and_once() -> None:
    once = leave(enter(Session(), A), A, turn("问", "答"), 1, 200, 10_000)
    assert texts(once) == ["问", "答"]
    assert once.waiting == []
    assert leave(once, A, turn("问", "答"), 1, 200, 10_000) == once


def test_turn_with_a_whole_history_replaces_the_stored_one() -> None:
    before = leave(Session(), A, turn("一", "二"), 1, 200, 10_000)
    assert texts(leave(before, B, turn("三", "四", replace=True), 1, 200, 10_000)) == ["三", "四"]


def test_tickets_keep_their_order_and_are_bounded() -> None:
    session = Session()
    for i in range(MAX_WAITING):
        session = enter(session, f"{i:032x}")
    assert enter(session, f"{0:032x}") == session
    with pytest.raises(Overloaded):
        enter(session, A)


def test_leaving_without_a_turn_changes_only_the_tickets() -> None:
    session = enter(enter(leave(Session(), A, turn("一", "二"), 1, 9, 999), B), C)
    assert leave(session, B, None, 1, 9, 999).waiting == [C]
    assert texts(leave(session, B, None, 1, 9, 999)) == ["一", "二"]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=30)), max_size=30))
def test_trimming_forgets_from_the_front_and_keeps_the_limits(story: list[tuple[str, str]]) -> None:
    messages = [Message(role=role, content=text) for role, text in story]  # type: ignore[arg-type]
    kept = trim(messages, 10, 200)
    assert kept == messages[len(messages) - len(kept) :]
    questions = [i for i, m in enumerate(messages) if m.role == "user"]
    newest_turn = messages[questions[-1] :] if questions else messages[-1:]
    assert kept[len(kept) - len(newest_turn) :] == newest_turn
    if len(kept) > len(newest_turn):
        assert len(kept) <= 10
        assert sum(len(m.content.encode()) for m in kept) <= 200
    if questions and len(kept) < len(messages):
        assert kept[0].role == "user"


def test_long_newest_turn_stays_whole() -> None:
    messages = [*turn("一", "二").messages, *turn("灯" * 1000, "答").messages]
    assert texts(trim(messages, 200, 100)) == ["灯" * 1000, "答"]


async def test_message_longer_than_a_session_is_refused_and_nothing_is_forgotten(
    connect: Connect, settings: BusSettings
) -> None:
    memory = sessions(await connect(), settings)
    await memory.store(A, turn("问", "答"), 1)
    with pytest.raises(TooLarge):
        await memory.take_turn("u", "s", B, asked_bytes=300_000)
    assert texts(await memory.take_turn("u", "s", C)) == ["问", "答"]


def test_sessions_of_two_users_never_share_a_key() -> None:
    keys = {key_of(u, s) for u, s in [("u", "s"), ("us", ""), ("", "us"), ("u1", "s"), ("u", "1s")]}
    assert len(keys) == 5
    assert all(k.startswith("$KV.ai_sessions.") and k.count(".") == 2 for k in keys)


def test_turn_is_stored_once_however_late_its_follow_up_runs_again() -> None:
    session = leave(Session(), "c0", turn("q0", "a0"), 1, 200, 10**6)
    for i in range(1, 90):
        session = leave(session, f"c{i}", turn(f"q{i}", f"a{i}"), 1 + i, 200, 10**6)
    assert leave(session, "c0", turn("q0", "a0"), 1, 200, 10**6).messages == session.messages


# The bucket.


def sessions(bus: Bus, settings: BusSettings) -> Sessions:
    return Sessions(bus, settings, ChatSettings())


async def run(bus: Bus, settings: BusSettings, call: str) -> None:
    """What the protocol does around a handler: a record while the call runs."""
    job = record.JobMessage(1, 1, b"")
    await Records(bus, settings).write(call, record.running(job), 0)


async def decide(bus: Bus, settings: BusSettings, call: str, follow_up: bytes = b"") -> None:
    records = Records(bus, settings)
    entry = await records.read(call)
    assert entry is not None
    await records.write(call, record.decided(entry.record, b"", End(), follow_up), entry.revision)


async def test_second_call_waits_for_the_first_and_sees_its_turn(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    memory = sessions(bus, settings)
    await run(bus, settings, A)
    await run(bus, settings, B)
    assert await memory.take_turn("u", "s", A) == []
    second = asyncio.create_task(memory.take_turn("u", "s", B))
    await asyncio.sleep(0.2)
    assert not second.done()
    await memory.store(A, turn("问", "答"), 1)
    assert texts(await second) == ["问", "答"]


async def test_turn_of_a_call_that_was_decided_but_not_stored_is_stored_by_the_next(
    connect: Connect, settings: BusSettings
) -> None:
    bus = await connect()
    memory = sessions(bus, settings)
    await run(bus, settings, A)
    await memory.take_turn("u", "s", A)
    await decide(bus, settings, A, turn("问", "答").model_dump_json().encode())
    assert texts(await memory.take_turn("u", "s", B)) == ["问", "答"]
    # Its own worker, late, changes nothing.
    await memory.store(A, turn("问", "答"), 1)
    await memory.store(B, turn("又问", "又答"), 1)
    assert texts(await memory.take_turn("u", "s", C)) == ["问", "答", "又问", "又答"]


async def test_call_whose_record_is_gone_holds_nobody_up(connect: Connect, settings: BusSettings) -> None:
    memory = sessions(await connect(), settings)
    await memory.take_turn("u", "s", A)
    assert await asyncio.wait_for(memory.take_turn("u", "s", B), 5) == []


async def test_many_calls_of_one_session_take_turns_and_lose_nothing(connect: Connect, settings: BusSettings) -> None:
    buses = [await connect() for _ in range(3)]
    calls = [f"{i:032x}" for i in range(1, MAX_WAITING + 1)]
    order: list[str] = []

    async def converse(i: int, call: str) -> None:
        bus = buses[i % len(buses)]
        memory = sessions(bus, settings)
        await run(bus, settings, call)
        history = await memory.take_turn("u", "s", call)
        assert texts(history) == [t for c in order for t in (f"问{c}", f"答{c}")]
        order.append(call)
        await decide(bus, settings, call, turn(f"问{call}", f"答{call}").model_dump_json().encode())
        await memory.store(call, turn(f"问{call}", f"答{call}"), 1)

    await asyncio.gather(*(converse(i, call) for i, call in enumerate(calls)))
    assert sorted(order) == calls


async def test_users_and_sessions_do_not_see_each_other(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    memory = sessions(bus, settings)
    await memory.store(A, turn("甲", "一", user="u1", session="s"), 1)
    assert await memory.take_turn("u2", "s", B) == []
    assert await memory.take_turn("u1", "t", C) == []


async def test_session_is_one_entry_whatever_happens(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    memory = sessions(bus, settings)
    for call in (A, B, C):
        await memory.store(call, turn(call[0], call[0]), 1)
    stored = await bus.last(topology.SESSIONS, key_of("u", "s"), timeout=2)
    assert stored is not None
    found = Session.model_validate_json(stored.data)
    assert texts(found) == ["a", "a", "b", "b", "c", "c"]
    await eventually(lambda: found.applied == [A, B, C])


def test_call_that_failed_before_it_said_anything_does_not_erase_the_history_it_would_have_replaced() -> None:
    before = leave(Session(), A, turn("一", "二"), 1, 200, 10_000)
    nothing = Turn(user="u", session="s", replace=True, messages=[])
    assert texts(leave(enter(before, B), B, nothing, 1, 200, 10_000)) == ["一", "二"]


async def test_tickets_of_callers_who_left_do_not_fill_a_session(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    memory = sessions(bus, settings)
    await run(bus, settings, A)
    await memory.take_turn("u", "s", A)
    for i in range(MAX_WAITING - 1):
        gone = f"{i:032x}"
        await run(bus, settings, gone)
        waiting = asyncio.create_task(memory.take_turn("u", "s", gone))
        await eventually(lambda gone=gone: _waits(bus, gone))  # type: ignore[misc]
        waiting.cancel()
        await decide(bus, settings, gone)
    await run(bus, settings, B)
    patient = asyncio.create_task(memory.take_turn("u", "s", B))
    await eventually(lambda: _waits(bus, B))
    await memory.store(A, turn("问", "答"), 1)
    assert texts(await patient) == ["问", "答"]


async def _waits(bus: Bus, call: str) -> bool:
    stored = await bus.last(topology.SESSIONS, key_of("u", "s"), timeout=2)
    return stored is not None and call in Session.model_validate_json(stored.data).waiting


@pytest.mark.parametrize("settings", [FAST.model_copy(update={"session_bytes": MIB})])
async def test_bucket_that_is_full_refuses_turns_and_loses_none(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    memory = sessions(bus, settings)
    await run(bus, settings, A)
    await memory.take_turn("u", "s", A)
    for i in range(10):
        await bus.store(topology.session_key(f"other.{i}"), b"x" * 100_000, timeout=5)
    long = turn("问", "答" * 30_000)
    with pytest.raises(Overloaded, match="sessions is full") as refused:
        await memory.store(A, long, 1)
    assert refused.value.retry_seconds is not None
    await decide(bus, settings, A, long.model_dump_json().encode())
    await bus.drop(topology.SESSIONS, topology.session_key("other.*"), timeout=5)
    assert texts(await memory.take_turn("u", "s", B)) == texts(long.messages)


async def test_session_waits_out_a_vote(
    connect: Connect, settings: BusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await connect()
    answers = [ReplyTimeout("a vote"), None]

    def voting(real: Any) -> Any:
        async def ask(*arguments: Any, **more: Any) -> Any:
            result = await real(*arguments, **more)
            if answers and (error := answers.pop(0)) is not None:
                raise error  # it was done; only the answer is lost
            return result

        return ask

    monkeypatch.setattr(bus, "store", voting(bus.store))
    memory = sessions(bus, settings)
    assert await memory.take_turn("u", "s", A) == []
    answers[:] = [ReplyTimeout("a vote"), None]
    await memory.store(A, turn("问", "答"), 1)
    assert texts(await memory.take_turn("u", "s", B)) == ["问", "答"]
