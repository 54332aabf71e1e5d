"""Envelope, call ids and subjects: what is written is read, and no text of a caller gets into a subject."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.bus import headers as wire
from qingyu_ai.bus import subjects
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Invalid, OtherVersion
from qingyu_ai.bus.headers import Envelope

CALL = "a" * 32


def envelope(**changed: object) -> Envelope:
    given_: dict[str, object] = {"call": CALL, "request_id": "req_1", "deadline": Deadline.after(5)}
    return Envelope(**{**given_, **changed})  # type: ignore[arg-type]


@given(st.text(max_size=128), st.text(max_size=128))
def test_user_and_project_travel_whatever_they_are_made_of(user: str, project: str) -> None:
    block = envelope(user=user, project=project).encode(stored=False)
    assert block.isascii()
    read = Envelope.from_headers(wire.decode(block))
    assert (read.user, read.project) == (user, project)


def test_job_carries_a_point_in_time_and_rpc_a_rest_of_time() -> None:
    stored = wire.decode(envelope(digest="ff", inbox="ai.stream.chat.b.c").encode(stored=True))
    asked = wire.decode(envelope().encode(stored=False))
    assert wire.EXPIRES_MS in stored
    assert wire.REMAINING_MS not in stored
    assert wire.REMAINING_MS in asked
    for headers in (stored, asked):
        assert 4 < Envelope.from_headers(headers).deadline.remaining <= 5.1


def test_everything_else_is_read_back() -> None:
    sent = envelope(
        roles=("writer", "editor"), traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01", digest="00", inbox="x"
    )
    read = Envelope.from_headers(wire.decode(sent.encode(stored=True)))
    assert (read.call, read.request_id, read.roles, read.traceparent, read.digest, read.inbox) == (
        sent.call,
        sent.request_id,
        sent.roles,
        sent.traceparent,
        sent.digest,
        sent.inbox,
    )


def test_version_that_is_two_releases_away_is_refused_by_name() -> None:
    headers = {**wire.decode(envelope().encode(stored=False)), wire.VERSION: "9"}
    with pytest.raises(OtherVersion, match="bus protocol 2, the request 9"):
        Envelope.from_headers(headers)


@pytest.mark.parametrize("broken", [{}, {wire.CALL: ""}, {wire.REMAINING_MS: "soon"}, {wire.EXPIRES_MS: "1e9"}])
def test_missing_or_malformed_headers_are_invalid_and_not_an_exception_of_ours(broken: dict[str, str]) -> None:
    headers = {**wire.decode(envelope().encode(stored=False)), **broken}
    if not broken:
        headers = {}
    if broken == {wire.CALL: ""}:
        del headers[wire.CALL]
    with pytest.raises(Invalid):
        Envelope.from_headers(headers)


@given(st.dictionaries(st.from_regex(r"[A-Za-z-]{1,20}", fullmatch=True), st.text().map(str.strip), max_size=5))
def test_header_block_is_read_as_it_was_written_or_not_written_at_all(headers: dict[str, str]) -> None:
    if any("\r" in v or "\n" in v for v in headers.values()):
        with pytest.raises(ValueError, match="line break"):
            wire.encode(headers)
    else:
        assert wire.decode(wire.encode(headers)) == headers


def test_status_line_of_the_broker_is_read() -> None:
    assert wire.decode(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert wire.decode(b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n") == {
        "Status": "100",
        "Description": "Idle Heartbeat",
        "Nats-Last-Consumer": "7",
    }


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_call_ids_differ_when_any_field_does(a: tuple[str, str, str], b: tuple[str, str, str]) -> None:
    assert (subjects.call_id(*a) == subjects.call_id(*b)) == (a == b)
    assert subjects.CALL_ID.fullmatch(subjects.call_id(*a))


def test_borders_between_the_fields_of_a_call_id_cannot_be_moved() -> None:
    assert subjects.call_id("ab", "c", "d") != subjects.call_id("a", "bc", "d")
    assert subjects.call_id("", "Chat", "x") != subjects.call_id("Chat", "", "x")


@pytest.mark.parametrize("name", ["calc", "a", "a_1", "x" * 64])
def test_tool_names_that_can_be_a_subject_token(name: str) -> None:
    assert subjects.TOOL_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "A", "1a", "a.b", "a*", ">", "a b", "工具", "x" * 65, "a\n", "é"])
def test_tool_names_that_cannot(name: str) -> None:
    assert not subjects.TOOL_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "subject",
    ["ai.stream.chat.b1." + "b" * 32, "ai.stream.rag.b1." + CALL, "$JS.API.STREAM.DELETE.AI_LOG", "ai.stream.chat.*." + CALL,
     "ai.stream.chat.b1.x." + CALL, ""],
)  # fmt: skip
def test_worker_answers_only_into_the_log_of_the_call_it_was_given(subject: str) -> None:
    assert not subjects.is_log(subject, "chat", CALL)
    assert subjects.is_log(subjects.log("chat", "b1", CALL), "chat", CALL)


def test_tighter_deadline_wins() -> None:
    near, far = Deadline.after(1), Deadline.after(2)
    assert min(near, far) is near
    assert not near.passed
    assert Deadline.after(-1).passed
    assert abs(Deadline.at_unix_ms(far.to_unix_ms()).remaining - 2) < 0.1
