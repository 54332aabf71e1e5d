"""What the upstream answers, byte for byte, in the forms that endpoints use."""

from __future__ import annotations

import json
import time

import pytest

from tests.upstream.process import Upstream
from tests.upstream.raw_client import RawClient, events, said
from tests.upstream.replies import chat, choices, error, html, opening
from tests.upstream.script import Counts, Cut, Done, Event, Finish, Raw, Reply, Step, Text


def test_what_was_asked_is_seen(up: Upstream) -> None:
    body = b'{"model": "m/1", "temperature": 0.5}'
    before = time.monotonic()
    up.script("m/1", error(429, "slow down", code="rate_limit", headers={"Retry-After": "7"}))
    with RawClient(up.port) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer k\r\nX-A: 1\r\nX-A: 2\r\n"
        client.socket.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:5]))
        client.socket.sendall(body[5:])
        status, headers, answer = client.answer()
    assert (status, headers["retry-after"]) == (429, "7")
    assert json.loads(answer)["error"] == {"message": "slow down", "type": None, "param": None, "code": "rate_limit"}
    (seen,) = up.seen()
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions", json.loads(body))
    assert (seen.headers["authorization"], seen.headers["x-a"]) == ("Bearer k", "1, 2")
    assert before < seen.at < time.monotonic()
    up.clear()
    assert up.seen() == []


@pytest.mark.parametrize(
    ("framing", "header"), [("chunked", "transfer-encoding"), ("length", "content-length"), ("close", "connection")]
)
@pytest.mark.parametrize("stream", [True, False])
def test_every_framing_carries_the_same_answer(up: Upstream, framing: str, header: str, stream: bool) -> None:
    up.script("m", [chat("雨停了"), chat("雨停了").but(framing=framing)])
    with RawClient(up.port) as client:
        answers = []
        for _ in range(2):
            client.ask(stream=stream)
            answers.append(client.answer())
    assert header in answers[1][1]
    assert answers[0][2] == answers[1][2]


def test_headers_of_a_reply_replace_those_of_the_server(up: Upstream) -> None:
    up.script("m", Reply((Cut("fin"),), body="short", framing="length", headers={"Content-Length": "100"}))
    with RawClient(up.port) as client:
        client.ask()
        got = client.rest()
    assert got.count(b"content-length") == 1
    assert b"content-length: 100\r\n" in got
    assert got.endswith(b"\r\n\r\nshort")


def test_events_may_be_written_in_any_form_that_the_format_allows(up: Upstream) -> None:
    steps: list[Step] = [
        Raw(b"\xef\xbb\xbf: ping\r\n\r\n"),
        Text("雨"),
        Event({"a": 1}, lines=True),
        Raw(b"data: {broken\r\n\r\n"),
        Done(),
    ]
    up.script("m", Reply(tuple(steps), eol="\r\n", prefix="data:"))
    with RawClient(up.port) as client:
        client.ask()
        body = client.answer()[2]
    ping, text, lines, broken, done, rest = body.split(b"\r\n\r\n")
    assert ping == b"\xef\xbb\xbf: ping"
    assert text.startswith(b'data:{"id"')
    assert lines == b'data:{\r\ndata:  "a": 1\r\ndata:}'
    assert (broken, done, rest) == (b"data: {broken", b"data:[DONE]", b"")


@pytest.mark.parametrize(
    ("usage_in", "asked", "where"),
    [
        ("asked", True, "own"),
        ("asked", False, "nowhere"),
        ("own", False, "own"),
        ("last", False, "last"),
        ("last", True, "last"),
    ],
)
def test_the_usage_is_where_the_script_puts_it(up: Upstream, usage_in: str, asked: bool, where: str) -> None:
    up.script("m", chat("雨", usage=Counts(1, 2, reasoning=1), usage_in=usage_in))  # type: ignore[arg-type]
    with RawClient(up.port) as client:
        client.ask(stream_options={"include_usage": asked})
        chunks = events(client.answer()[2])
        client.ask(stream=False)
        plain = json.loads(client.answer()[2])
    with_usage = [chunk for chunk in chunks if "usage" in chunk]
    assert plain["usage"]["total_tokens"] == 3
    if where == "nowhere":
        assert with_usage == []
        return
    assert with_usage == [chunks[-1]]
    assert with_usage[0]["usage"] == plain["usage"]
    assert bool(with_usage[0]["choices"]) == (where == "last")


def test_several_choices_take_turns_and_are_whole_in_a_plain_completion(up: Upstream) -> None:
    up.script("m", choices("雨停了", "雪", size=1))
    with RawClient(up.port) as client:
        client.ask()
        body = client.answer()[2]
        client.ask(stream=False)
        plain = json.loads(client.answer()[2])
    assert (said(body), said(body, choice=1)) == ("雨停了", "雪")
    assert [choice["message"]["content"] for choice in plain["choices"]] == ["雨停了", "雪"]


def test_replies_are_used_in_order_and_the_last_one_is_repeated(up: Upstream) -> None:
    up.script("m", [html(502), Reply(status=503, body="", close=True), chat("好")])
    statuses = []
    for _ in range(4):
        with RawClient(up.port) as client:
            client.ask()
            statuses.append(client.answer()[0])
    assert statuses == [502, 503, 200, 200]


def test_an_error_may_come_in_the_middle_of_a_stream(up: Upstream) -> None:
    up.script("m", opening("雨", Event({"error": {"message": "overloaded"}}), Finish("stop", text="停")))
    with RawClient(up.port) as client:
        client.ask()
        chunks = events(client.answer()[2])
    assert chunks[-2] == {"error": {"message": "overloaded"}}
    assert chunks[-1]["choices"][0]["delta"] == {"content": "停"}


def test_rankings_come_in_both_forms(up: Upstream) -> None:
    with RawClient(up.port) as client:
        client.ask("r", path="/v1/rerank", query="雨停", documents=["雪", "雨停了", {"text": "雨"}], top_n=2)
        jina = json.loads(client.answer()[2])
        client.ask("r", path="/rerank", query="雨停", texts=["雪", "雨停了"])
        tei = json.loads(client.answer()[2])
        up.script("r", error(503, "loading"))
        client.ask("r", path="/v1/rerank", query="雨停", documents=["雪"])
        assert client.answer()[0] == 503
    assert jina["results"] == [{"index": 1, "relevance_score": 1.0}, {"index": 2, "relevance_score": 0.5}]
    assert tei == [{"index": 1, "score": 1.0}, {"index": 0, "score": 0.0}]


def test_a_request_that_makes_no_sense_is_refused(up: Upstream) -> None:
    with RawClient(up.port) as client:
        client.ask(path="/v1/unknown")
        assert client.answer()[0] == 404
        client.ask(path="/v1/embeddings")
        assert client.answer()[0] == 400
        client.ask("echo", messages=7)
        assert client.answer()[0] == 400
        client.socket.sendall(b"nonsense\r\n\r\n")
        assert client.answer()[0] == 400
