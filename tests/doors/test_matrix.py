"""The permissions of every user on a real server, against an expectation that was written by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from qingyu_ai.doors.roles import BY_NAME, NAMES
from tests.doors.conftest import Guarded
from tests.doors.matrix import CALL, HEARS, LETTERS, SAYS, rows
from tests.waiting import eventually

VIOLATION = "permissions violation for"


def test_the_expectation_names_every_user() -> None:
    assert set(LETTERS.values()) == set(NAMES)


@pytest.mark.parametrize("user", NAMES)
async def test_user_may_publish_what_is_expected_and_nothing_else(guarded: Guarded, user: str) -> None:
    errors: list[str] = []
    client = await guarded.connect(user, errors)
    echo, wrong = await echoing(client, user), []
    for subject, allowed in rows(SAYS):
        errors.clear()
        await client.publish(subject, b"")
        await echo()
        if (not errors) != (user in allowed):
            wrong.append((subject, errors[:]))
    await client.close()
    assert wrong == []


@pytest.mark.parametrize("user", NAMES)
async def test_user_may_subscribe_to_what_is_expected_and_nothing_else(guarded: Guarded, user: str) -> None:
    errors: list[str] = []
    client = await guarded.connect(user, errors)
    echo, wrong = await echoing(client, user), []
    for line, allowed in rows(HEARS):
        errors.clear()
        subject, _, queue = line.partition(" ")
        interest = await client.subscribe(subject, queue=queue)
        await echo()
        if (not errors) != (user in allowed):
            wrong.append((line, errors[:]))
        await interest.unsubscribe()
    await client.close()
    assert wrong == []


@pytest.mark.parametrize("user", NAMES)
def test_each_permission_is_in_the_expectation(user: str) -> None:
    role = BY_NAME[user]
    said = [subject for subject, allowed in rows(SAYS) if user in allowed]
    heard = [subject for subject, allowed in rows(HEARS) if user in allowed]
    assert [p for p in role.publish if not any(covers(p, subject) for subject in said)] == []
    assert [p for p in role.subscribe if not any(covers(p, subject) for subject in heard)] == []


def covers(pattern: str, subject: str) -> bool:
    """Whether a permission is what allows a subject of the expectation."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given) > i
        if i >= len(given) or (token != "*" and token.partition(" ")[0] not in ("*", given[i].partition(" ")[0])):
            return False
    return len(wanted) == len(given)


@pytest.mark.parametrize("user", ["", "nobody", "chat"])
async def test_nobody_comes_in_without_a_user_and_its_password(guarded: Guarded, user: str) -> None:
    client = Client()
    options: dict[str, Any] = {"user": user, "password": "p" * 40} if user else {}
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await client.connect(guarded.server.url, allow_reconnect=False, **options)
    await client.close()


async def test_a_question_may_be_answered_once_where_it_wants_it_and_no_other_inbox(guarded: Guarded) -> None:
    errors: list[str] = []
    tool, bridge = await guarded.connect("tool", errors), await guarded.connect("bridge", [])
    questions = await tool.subscribe("ai.rpc.tool.call.*", queue="tool")
    answers = await bridge.subscribe("_INBOX.bridge.p.*")
    await (await echoing(tool, "tool"))()
    await bridge.publish("ai.rpc.tool.call.count_words", b"?", reply="_INBOX.bridge.p.1")
    question = await questions.next_msg(5)
    for subject in (question.reply, "_INBOX.bridge.p.2", question.reply):
        await tool.publish(subject, b"!")
    await (await echoing(tool, "tool"))()
    assert [VIOLATION in error for error in errors] == [True, True]
    assert (await answers.next_msg(5)).subject == "_INBOX.bridge.p.1"
    assert not answers.pending_msgs
    await tool.close()
    await bridge.close()


async def test_the_server_itself_answers_jetstream_questions_wherever_they_want_it(guarded: Guarded) -> None:
    """Permissions do not keep a user from it, as docs/security-nats.md says. If this fails, the server has learnt to."""
    setup, chat = await guarded.connect("setup", []), await guarded.connect("chat", [])
    operator = await guarded.connect("operator", [])
    await setup.jetstream().add_stream(name="KV_ai_calls", subjects=["$KV.ai_calls.>"], allow_direct=True)
    key = f"$KV.ai_calls.{CALL}"
    await operator.jetstream().publish(key, b"a record")
    await chat.publish("$JS.API.STREAM.INFO.KV_ai_sessions", b"", reply=key)

    async def is_overwritten() -> bool:
        found = await operator.jetstream().get_last_msg("KV_ai_calls", key)
        return b"stream_info_response" in (found.data or b"")

    await eventually(is_overwritten)
    for client in (setup, chat, operator):
        await client.close()


async def echoing(client: Client, user: str) -> Callable[[], Awaitable[object]]:
    """A way to wait until the server has handled all that was sent: a message to ourselves, behind it. nats-py's `flush` would
    overtake what waits to be written."""
    inbox = f"_INBOX.{user}.echo"
    interest = await client.subscribe(inbox)

    async def echo() -> object:
        await client.publish(inbox, b"")
        return await interest.next_msg(5)

    return echo
