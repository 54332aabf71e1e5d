"""The upstream really misbehaves as it is told to: every test reads the socket itself."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.upstream.process import Upstream
from tests.upstream.raw_client import RawClient, events, request, said
from tests.upstream.replies import bench, chat, opening
from tests.upstream.script import Counts, Cut, Endless, Pause, Raw, Reply, Stall, Text
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
