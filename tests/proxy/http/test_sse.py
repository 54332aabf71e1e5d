"""Server-sent events, as a browser reads them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import generate_latest

from qingyu_ai.bus.errors import NotFound
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.proxy.http import sse
from tests.bridge.conftest import Bridge
from tests.bridge.halting import Halting
from tests.proxy.conftest import agent_worker
from tests.proxy.http.conftest import ME, Open, Site
from tests.proxy.http.test_json import ASKED, error_of
from tests.waiting import eventually

TEXT = "雨停了，😀林黛玉推开窗，看见天边有一道虹。"


async def speak(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
    for i in range(0, len(TEXT), 3):
        yield ai.ChatStreamChunk(delta=TEXT[i : i + 3])
    call.trailers["x-model"] = "m1"
    yield ai.ChatStreamChunk(is_final=True)


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """Read events by the rules of the standard; a comment is an event without data."""
    event: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
        elif event:
            yield event
            event = {}


async def all_of(site: Site, method: str, path: str, **more: Any) -> list[dict[str, str]]:
    more["headers"] = ME | more.get("headers", {})
    async with site.client.stream(method, f"/api/v1/ai{path}", **more) as response:
        assert response.status_code == 200
        return [event async for event in events(response.aiter_lines()) if "event" in event]


def text_of(found: list[dict[str, str]]) -> str:
    return "".join(json.loads(e["data"])["delta"] for e in found if e["event"] == "message")


async def test_stream_has_its_headers_events_ids_and_end(bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    headers = ME | {"X-Request-Id": "r 1".replace(" ", "/")}
    async with site.client.stream("POST", "/api/v1/ai/chat/stream", json=ASKED, headers=headers) as response:
        found = [event async for event in events(response.aiter_lines())]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert response.headers["connection"] == "keep-alive"
    assert response.headers["x-request-id"] == "r/1"
    assert response.headers["location"] == "/api/v1/ai/calls/r%2F1/stream"
    assert found[0] == {"retry": "1000"}
    *messages, done = found[1:]
    assert done == {"event": "done", "data": '{"status":"completed"}'}
    assert {event["event"] for event in messages} == {"message"}
    assert text_of(messages) == TEXT
    assert [list(json.loads(event["data"])) for event in messages] == [["delta", "type", "metadata", "is_final"]] * len(
        messages
    )
    last = json.loads(messages[-1]["data"])
    assert (last["is_final"], last["metadata"], messages[-1]["id"]) == (True, {"model": "m1"}, str(len(TEXT)))


async def test_agent_says_what_it_does(bridge: Bridge, site: Site) -> None:
    async def work(call: Call, request: ai.AgentRequest) -> AsyncIterator[ai.AgentStreamChunk]:
        yield ai.AgentStreamChunk(delta="想", chunk_type="reasoning")
        yield ai.AgentStreamChunk(chunk_type="tool_start", metadata={"tool_name": "count", "parameters": "{}"})
        yield ai.AgentStreamChunk(chunk_type="tool_end", metadata={"tool_name": "count", "success": "true"})
        yield ai.AgentStreamChunk(delta="写", chunk_type="text")
        yield ai.AgentStreamChunk(
            chunk_type="text", is_final=True, metadata={"status": "completed", "tokens_used": "9"}
        )

    await agent_worker(bridge, work)
    found = await all_of(site, "POST", "/agents/plot/stream", json={"task": "写"})
    data = [json.loads(event["data"]) for event in found[:-1]]
    assert [one["type"] for one in data] == ["reasoning", "tool_start", "tool_end", "text", "text"]
    assert [one["metadata"]["seq"] for one in data] == ["0", "1", "2", "3", "4"]
    assert [event["id"] for event in found[:-1]] == ["0.1", "1", "2", "3", "3"]
    metrics = (await site.client.get("/metrics")).text
    assert 'ai_agent_requests_total{agent_type="plot",status="completed"} 1.0' in metrics
    assert 'ai_tool_calls_total{status="success",tool_name="count"} 1.0' in metrics
    for event_id in ("", "0.1", "1", "3"):
        rest = await all_of(site, "POST", "/agents/plot/stream", json={"task": "写"}, headers={"X-Request-Id": "z"})
        rest = await all_of(site, "GET", "/calls/z/stream", headers={"Last-Event-ID": event_id})
        skipped = {"": 0, "0.1": 1, "1": 2, "3": 4}[event_id]
        # The entries of a map have no order.
        assert [json.loads(event["data"]) for event in rest] == [json.loads(event["data"]) for event in found[skipped:]]


async def failing(call: Call, request: ai.AgentRequest) -> AsyncIterator[ai.AgentStreamChunk]:
    yield ai.AgentStreamChunk(delta="半章", chunk_type="text")
    facts = {
        "status": "failed",
        "code": "14",
        "message": "The model broke off / 模型中断",
        "reason": "MODEL_STREAM_CUT",
    }
    yield ai.AgentStreamChunk(chunk_type="text", is_final=True, metadata=facts)


async def test_agent_that_failed_ends_with_its_final_chunk_and_an_error_without_done(
    bridge: Bridge, site: Site
) -> None:
    await agent_worker(bridge, failing)
    headers = {"X-Request-Id": "z"}
    for method, path in (("POST", "/agents/plot/stream"), ("GET", "/calls/z/stream")):
        more = {"json": {"task": "写"}, "headers": headers} if method == "POST" else {}
        half, final, error = await all_of(site, method, path, **more)
        assert json.loads(half["data"])["delta"] == "半章"
        assert json.loads(final["data"])["metadata"]["status"] == "failed"
        said = json.loads(error["data"])["error"]
        assert (error["event"], said["code"], said["httpStatus"]) == ("error", "5001", 500)
        assert (said["message"], said["messageEn"]) == (
            "智能体执行失败：模型中断",
            "The agent failed: The model broke off",
        )
        assert (said["cause"], said["requestId"], said["retryable"]) == ("MODEL_STREAM_CUT", "z", False)


async def test_stream_goes_on_at_another_proxy_from_the_last_event(bridge: Bridge, open_site: Open) -> None:
    first, second = await open_site(), await open_site()
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with first.client.stream(
        "POST", "/api/v1/ai/chat/stream", json=ASKED, headers=ME | {"X-Request-Id": "r1"}
    ) as response:
        async for event in events(response.aiter_lines()):
            if "data" in event:
                break
    assert (json.loads(event["data"])["delta"], event["id"]) == ("前", "1")
    halting.release.set()
    rest = await all_of(second, "GET", "/calls/r1/stream", headers={"Last-Event-ID": event["id"]})
    assert text_of(rest) == "后"
    assert rest[-1]["event"] == "done"
    assert (halting.ran, halting.stopped) == (1, 0)
    other = await second.client.get("/api/v1/ai/calls/r1/stream", headers={"X-User-Id": "u2"})
    error_of(other, 404, "NOT_FOUND")


async def test_refusal_before_the_first_word_has_its_own_status(bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    error_of(await site.post("/chat/stream", {**ASKED, "model": "x" * 200}), 400, "VALIDATION")
    error_of(await site.get("/calls/never/stream"), 404, "NOT_FOUND")
    error_of(await site.get("/calls/never/stream", headers={"Last-Event-ID": "x"}), 400, "VALIDATION")


async def test_failure_in_the_middle_is_an_event_without_done(bridge: Bridge, site: Site) -> None:
    async def fail(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="前")
        raise NotFound("model", "模型", "x")

    await bridge.worker(stream=fail)
    found = await all_of(site, "POST", "/chat/stream", json=ASKED)
    assert [event["event"] for event in found] == ["message", "error"]
    error = json.loads(found[-1]["data"])["error"]
    assert (error["code"], error["message"], error["service"]) == ("NOT_FOUND", "没有名为 'x' 的模型", "ai_proxy")


async def test_failure_after_a_long_silence_is_an_event_too(
    bridge: Bridge, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "FIRST_SECONDS", 0.05)
    release = asyncio.Event()

    async def fail(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        await release.wait()
        if request.messages:
            raise NotFound("model", "模型", "x")
        yield ai.ChatStreamChunk()

    await bridge.worker(stream=fail)
    async with site.client.stream("POST", "/api/v1/ai/chat/stream", json=ASKED, headers=ME) as response:
        assert response.status_code == 200
        release.set()
        found = [event async for event in events(response.aiter_lines()) if "event" in event]
    assert [event["event"] for event in found] == ["error"]


async def test_silence_is_filled_with_comments(bridge: Bridge, open_site: Open) -> None:
    site = await open_site(silence_seconds=0.1)
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    seen = []
    async with site.client.stream("POST", "/api/v1/ai/chat/stream", json=ASKED, headers=ME) as response:
        async for line in response.aiter_lines():
            seen.append(line)
            if seen.count(":") == 3 or seen.count(": ") == 3:
                halting.release.set()
    assert 'data: {"status":"completed"}' in seen


async def test_cancel_by_id_ends_the_stream_with_an_error(bridge: Bridge, site: Site) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    reading = asyncio.create_task(all_of(site, "POST", "/chat/stream", json=ASKED, headers={"X-Request-Id": "r1"}))
    await eventually(lambda: halting.ran == 1)
    assert (await site.client.delete("/api/v1/ai/calls/r1", headers=ME)).status_code == 204
    found = await reading
    assert [event["event"] for event in found] == ["message", "error"]
    assert json.loads(found[-1]["data"])["error"]["message"] == "请求已取消"
    await eventually(lambda: halting.stopped == 1)


async def test_plain_route_streams_if_the_body_says_so(bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    found = await all_of(site, "POST", "/chat", json={**ASKED, "stream": True})
    assert text_of(found) == TEXT


async def test_call_whose_id_has_a_slash_is_read_on_at_its_location_with_a_ticket(bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    async with site.client.stream(
        "POST", "/api/v1/ai/chat/stream", json=ASKED, headers=ME | {"X-Request-Id": "r/1?x"}
    ) as response:
        where = response.headers["location"]
        assert [line async for line in response.aiter_lines()]
    assert where == "/api/v1/ai/calls/r%2F1%3Fx/stream"
    url = (await site.post("/tickets", {"path": where})).json()["url"]
    async with site.client.stream("GET", url) as response:
        assert text_of([event async for event in events(response.aiter_lines()) if "event" in event]) == TEXT
        assert f"Path={where};" in response.headers["set-cookie"]
    assert (await site.client.delete("/api/v1/ai/calls/r%2F1%3Fx", headers=ME)).status_code == 204


async def test_ticket_opens_its_stream_once_and_a_cookie_lets_the_browser_come_back(
    bridge: Bridge, open_site: Open
) -> None:
    first, second = await open_site(), await open_site()
    await bridge.worker(stream=speak)
    await all_of(first, "POST", "/chat/stream", json=ASKED, headers={"X-Request-Id": "r1"})
    given = await first.post("/tickets", {"path": "/api/v1/ai/calls/r1/stream"})
    assert given.status_code == 201
    url = given.json()["url"]
    for site in (first, second):  # as an EventSource does: the same address again, with the cookie that it was given
        response = await site.client.get(url)
        assert "event: done" in response.text
        second.client.cookies.update(response.cookies)
    first.client.cookies.clear()
    error_of(await first.client.get(url), 401, "UNAUTHENTICATED")
    cookie = second.client.cookies["qingyu_reader"]
    elsewhere = {"Cookie": f"qingyu_reader={cookie}"}
    error_of(await second.client.get("/api/v1/ai/calls/r2/stream", headers=elsewhere), 403, "PERMISSION_DENIED")


async def test_client_that_takes_nothing_is_left_and_its_call_lingers(
    bridge: Bridge, open_site: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = sse.SEND_SECONDS
    monkeypatch.setattr(sse, "SEND_SECONDS", 0.3)
    site = await open_site(send_bytes=4096)

    async def flood(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for _ in range(15_000):
            yield ai.ChatStreamChunk(delta="字" * 80)
        yield ai.ChatStreamChunk(is_final=True)

    await bridge.worker(stream=flood)
    body = json.dumps(ASKED).encode()
    head = (
        "POST /api/v1/ai/chat/stream HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "X-Request-Id: r1",
        "X-User-Id: u1",
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", site.port))
        client.sendall("\r\n".join((*head, "", "")).encode() + body)
        registry = site.face.service.registry
        await eventually(lambda: b"ai_proxy_streams 1.0" in generate_latest(registry))
        await eventually(lambda: b"ai_proxy_streams 0.0" in generate_latest(registry), timeout=30)
        assert client.recv(100), "it was not cut off before anything came"
    monkeypatch.setattr(sse, "SEND_SECONDS", patience)
    found = await all_of(site, "GET", "/calls/r1/stream")
    assert len(text_of(found)) == 80 * 15_000
