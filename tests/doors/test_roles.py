"""The table of users beside what the code has: streams, rows, and who may ask whom."""

from __future__ import annotations

import re

import pytest

from qingyu_ai import routes
from qingyu_ai.bus import topology
from qingyu_ai.bus.answering import ASKERS, Answering
from qingyu_ai.doors.rendering import password_variable, render
from qingyu_ai.doors.roles import BY_NAME, NAMES, ROLES, STREAMS
from qingyu_ai.settings import Bus, NatsPasswords, Settings, SettingsError, load
from tests.doors.test_matrix import covers


def test_streams_are_those_of_the_topology() -> None:
    assert set(STREAMS) == {plan.name for plan in topology.plans(Bus())}


def test_there_is_a_password_for_each_role() -> None:
    assert set(NatsPasswords.model_fields) == set(NAMES)


@pytest.mark.parametrize("route", [r for r in routes.ROUTES if isinstance(r, routes.Rpc)], ids=lambda r: r.method)
def test_who_may_publish_a_question_is_who_is_answered(route: routes.Rpc) -> None:  # type: ignore[type-arg]
    subject = f"{route.subject}.count_words" if route.token else route.subject
    may_ask = {role.name for role in ROLES if any(covers(allowed, subject) for allowed in role.publish)}
    assert may_ask <= set(ASKERS[route.worker])
    for role in ASKERS[route.worker]:
        assert any(
            covers(allowed, f"{r.subject}.x" if r.token else r.subject)
            for r in routes.ROUTES
            if isinstance(r, routes.Rpc) and r.worker == route.worker
            for allowed in BY_NAME[role].publish
        )


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.bridge",
        "_INBOX.chat.0123456789abcdef.1",
        "_INBOX.bridges.0123456789abcdef.1",
        "_inbox.bridge.1",
        "$KV.ai_calls.0123456789abcdef0123456789abcdef",
        "ai.job.chat.complete",
        "$JS.API.STREAM.PURGE.AI_LOG",
        "x._INBOX.bridge.1",
    ],
)
def test_worker_answers_only_in_inboxes_of_those_who_may_ask_and_counts_the_rest(reply: str) -> None:
    answering = Answering("tool")
    assert answering.may("ai.rpc.tool.list", "_INBOX.bridge.0123456789abcdef.1")
    assert answering.may("ai.rpc.tool.call.count_words", "_INBOX.agent.0123456789abcdef.1")
    assert not answering.may("ai.rpc.tool.list", reply)
    assert answering.refused == 1


def test_rendered_block_has_a_variable_for_each_password_and_no_password() -> None:
    block = render(load(nats={"passwords": {"chat": "p0123456789abcdefghij"}}))
    assert "p0123456789" not in block
    assert re.findall(r"password: (.+)", block) == [f"${password_variable(name)}" for name in NAMES]


def test_answers_are_allowed_for_as_long_as_the_longest_call() -> None:
    settings = Settings(bus={"longest_deadline_seconds": 60.5})  # type: ignore[arg-type]
    assert set(re.findall(r"allow_responses: (.+)", render(settings))) == {'{ max: 1, expires: "71s" }'}


@pytest.mark.parametrize(
    "password", ["short", "1startswithadigit00000", "has a blank in the middle", "p" * 19, "p$" * 12]
)
def test_password_that_the_server_would_read_otherwise_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(nats={"passwords": {"chat": password}})
    assert "QINGYU_NATS__PASSWORDS__CHAT: a password of at least 20 letters" in str(raised.value)
    assert password not in str(raised.value)


@pytest.mark.parametrize(
    ("nats", "said"),
    [
        ({"cert_file": "c.pem"}, "cert_file is set, and key_file, which belongs to it, is not"),
        ({"key_file": "k.pem"}, "key_file is set, and cert_file, which belongs to it, is not"),
        ({"user": "chat"}, "user is set, and password, which is for it, is not"),
        ({"url": "nats://h:1", "ca_file": "c.pem"}, "each address in QINGYU_NATS__URL must begin with tls://"),
        (
            {"url": "nats://a:b@h:1", "user": "chat", "password": "x"},
            "QINGYU_NATS__USER is set, and QINGYU_NATS__URL has a user too",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(nats: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        load(nats=nats)


def test_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINGYU_NATS__CA_FILE", "")
    monkeypatch.setenv("QINGYU_BRIDGE__CERT_FILE", "")
    settings = load()
    assert (settings.nats.ca_file, settings.bridge.cert_file) == (None, None)
