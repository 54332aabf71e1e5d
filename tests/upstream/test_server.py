"""The upstream really misbehaves as it is told to: every test reads the socket itself."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.optional import require_tool
from tests.upstream.process import ROOT, Upstream
from tests.upstream.raw_client import RawClient, events, request, said
from tests.upstream.replies import bench, chat, choices, error, html, opening
from tests.upstream.script import Counts, Cut, Done, Endless, Event, Finish, Pause, Raw, Reply, Stall, Step, Text
from tests.waiting import eventually_sync

TEXT = "雨停了，👨‍👩‍👧 回家。"


def test_a_stream_says_its_text_in_deltas_and_ends(up: Upstream) -> None:
    up.script("m", chat(TEXT, size=3, reasoning="想一想", usage=Counts(3, 9)))
    with RawClient(up.port) as client:
        client.ask()
        status, headers, body = client.answer()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (said(body), said(body, "reasoning_content")) == (TEXT, "想一想")
    assert body.endswith(b"data: [DONE]\n\n")
    assert events(body)[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("split", [1, 2, 3, 7, 64])
def test_a_stream_split_at_any_byte_is_the_same_stream(up: Upstream, split: int) -> None:
    up.script("m", [chat(TEXT), chat(TEXT).but(split=split)])
    with RawClient(up.port) as client:
        bodies = []
        for _ in range(2):
            client.ask()
            bodies.append(client.answer()[2])
    assert bodies[0] == bodies[1]


def test_a_split_comes_apart_inside_a_character(up: Upstream) -> None:
    up.script("m", Reply((Raw(TEXT.encode()),), split=1, split_seconds=0.002, close=True))
    with RawClient(up.port) as client:
        client.ask()
        reads = list(client.reads())
    begin = TEXT.encode()[0]
    assert any(read.endswith(bytes([begin])) for read in reads)


def test_a_reset_connection_is_reset(up: Upstream) -> None:
    up.script("m", opening("雨停", Pause(0.05), Cut("rst")))
    with RawClient(up.port) as client:
        client.ask()
        client.until("雨停".encode())
        with pytest.raises(ConnectionResetError):
            client.rest()
    (seen,) = up.seen()
    assert seen.ended == "server_cut"
    assert seen.ended_at is not None
    assert seen.ended_at >= seen.at + 0.05


def test_a_closed_connection_ends_without_the_last_chunk(up: Upstream) -> None:
    up.script("m", opening("雨停", Cut("fin")))
    with RawClient(up.port) as client:
        client.ask()
        got = client.rest()
    assert "雨停".encode() in got
    assert got.endswith(b"\n\n\r\n")
    assert [seen.ended for seen in up.seen()] == ["server_cut"]


def test_a_plain_completion_is_cut_in_its_middle(up: Upstream) -> None:
    up.script("m", opening("雨停", Cut("fin")))
    with RawClient(up.port) as client:
        client.ask(stream=False)
        head = client.until(b"\r\n\r\n").decode()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        assert len(client.rest()) == length // 2


def test_a_stalled_stream_says_nothing_more_for_ever(up: Upstream) -> None:
    up.script("m", opening("雨停", Stall()))
    with RawClient(up.port) as client:
        client.ask()
        client.until("雨停".encode())
        client.until(b"\n\n\r\n")
        client.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.rest()
        assert up.seen()[0].ended is None


def test_the_end_of_a_client_is_noticed_when_it_happens(up: Upstream) -> None:
    up.script("m", opening("雨停", Stall()))
    took = []
    for number in range(5):
        with RawClient(up.port) as client:
            client.ask()
            client.until("雨停".encode())
            left_at = time.monotonic()
        eventually_sync(lambda n=number: up.seen()[n].ended)  # type: ignore[misc]
        seen = up.seen()[number]
        assert seen.ended == "client_closed"
        assert seen.ended_at is not None
        assert seen.ended_at == seen.closed_at
        assert seen.ended_at >= left_at
        took.append(seen.ended_at - left_at)
    # The best one: a machine that runs many tests at once may be late.
    assert min(took) < 0.05


@pytest.mark.parametrize("every", [0.0, 0.001])
def test_an_endless_stream_does_not_end_before_the_client_leaves(up: Upstream, every: float) -> None:
    up.script("m", opening("雨", Endless(every=every)))
    with RawClient(up.port) as client:
        client.ask()
        for _ in range(100):
            client.until(b": ping\n\n")
        assert up.seen()[0].ended is None
    eventually_sync(lambda: up.seen()[0].ended == "client_closed")


def test_a_client_that_does_not_read_holds_up_an_endless_stream_and_nothing_else(up: Upstream) -> None:
    up.script("m", opening("雨", Endless(Text("雨" * 1000))))
    process = psutil.Process(up.pid)
    with RawClient(up.port) as client:
        client.ask()
        client.until("雨".encode())
        before = process.memory_info().rss
        with RawClient(up.port) as other:
            other.ask("echo", messages=[{"role": "user", "content": "在吗"}])
            assert said(other.answer()[2]) == "在吗"
        assert process.memory_info().rss - before < 50 * 2**20
    eventually_sync(lambda: up.seen()[0].ended == "client_closed")


def test_one_connection_serves_many_requests_also_ones_sent_before_the_answer(up: Upstream) -> None:
    up.script("m", [chat("一"), chat("二"), chat("三").but(close=True)])
    with RawClient(up.port) as client:
        client.ask()
        assert said(client.answer()[2]) == "一"
        client.socket.sendall(request() + request())
        assert said(client.answer()[2]) == "二"
        _, headers, body = client.answer()
        assert said(body) == "三"
        assert headers["connection"] == "close"
        assert client.rest() == b""
    seen = up.seen()
    assert [one.ended for one in seen] == ["complete"] * 3
    assert len({one.connection for one in seen}) == 1
    assert seen[0].closed_at == seen[2].closed_at


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


def test_a_reply_waits_before_its_headers(up: Upstream) -> None:
    up.script("m", chat("雨").but(delay=0.1))
    with RawClient(up.port) as client:
        began = time.monotonic()
        client.ask()
        client.until(b"\r\n\r\n")
        assert time.monotonic() - began >= 0.1


def test_a_closed_door_holds_up_or_resets_new_connections(up: Upstream) -> None:
    up.door(delay=0.1)
    with RawClient(up.port) as client:
        began = time.monotonic()
        client.ask("echo")
        client.answer()
        assert time.monotonic() - began >= 0.1
    up.door(reset=True)
    # It may happen as early as in the connect.
    with pytest.raises(ConnectionResetError), RawClient(up.port) as client:
        client.rest()
    assert len(up.seen()) == 1


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


def test_a_paced_stream_takes_its_time_and_shares_it_with_others(up: Upstream) -> None:
    up.script("m", bench(20, pace=100))
    clients = [RawClient(up.port) for _ in range(20)]
    began = time.monotonic()
    for client in clients:
        client.ask()
    bodies = [client.answer()[2] for client in clients]
    took = time.monotonic() - began
    for client in clients:
        client.close()
    assert {said(body) for body in bodies} == {"雨停" * 20}
    assert 0.2 <= took < 2.0


def test_a_paced_stream_whose_client_leaves_does_not_disturb_the_others(up: Upstream) -> None:
    up.script("m", bench(20, pace=100))
    with RawClient(up.port) as staying:
        with RawClient(up.port) as leaving:
            staying.ask()
            leaving.ask()
            leaving.until("雨停".encode())
        assert said(staying.answer()[2]) == "雨停" * 20
    assert sorted(str(seen.ended) for seen in up.seen()) == ["client_closed", "complete"]


def test_a_saturated_stream_is_the_same_in_large_writes(up: Upstream) -> None:
    up.script("m", [bench(500), bench(500, joined=True)])
    with RawClient(up.port) as client:
        client.ask()
        each = client.answer()[2]
        client.ask()
        assert client.answer()[2] == each
    assert said(each) == "雨停" * 500


def test_the_upstream_keeps_its_port_when_it_starts_again() -> None:
    with Upstream() as up:
        port = up.port
        up.stop()
        with pytest.raises(ConnectionRefusedError):
            RawClient(port)
        up.start()
        assert up.port == port
        RawClient(port).close()


def test_the_upstream_ends_with_its_standard_input() -> None:
    command = [sys.executable, "-m", "tests.upstream.server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"] > 0
        process.stdin.close()
        assert process.wait(10) == 0


def test_the_upstream_ends_when_its_parent_is_killed() -> None:
    starts = (
        "import os; from tests.upstream.process import Upstream; up = Upstream(); up.start(); print(up.pid, flush=True)"
    )
    parent = f"{starts}; os.read(0, 1)"
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_the_upstream_speaks_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [require_tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-batch"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", cert, "-keyout", key], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(cert))
    with Upstream(cert=cert, key=key) as up:
        up.script("m", [chat(TEXT).but(close=True), opening("雨", Pause(0.05), Cut("rst"))])
        assert up.base_url.startswith("https://")
        for ends in (b"0\r\n\r\n", b""):
            plain = socket.create_connection(("127.0.0.1", up.port), 10)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
                client.sendall(request())
                got = b""
                try:
                    while data := client.recv(65536):
                        got += data
                except ConnectionResetError:
                    assert not ends
                assert got.endswith(ends)
        assert [seen.ended for seen in up.seen()] == ["complete", "server_cut"]
