"""The WebSocket, called by the client of the library `websockets`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bridge.conftest import Bridge
from tests.bridge.halting import Halting
from tests.proxy.conftest import agent_worker
from tests.proxy.http.conftest import ME, Open, Site
from tests.proxy.http.test_json import ASKED, error_of
from tests.proxy.http.test_sse import TEXT, failing, speak
from tests.waiting import eventually


def dial(site: Site, query: str = "", **more: Any) -> Any:
    more = {"additional_headers": ME, "proxy": None, **more}
    return connect(f"ws://127.0.0.1:{site.port}/api/v1/ai/ws{query}", **more)


async def say(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def hear(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages up to the end of the socket."""
    found = []
    with suppress(ConnectionClosedError):  # its code is looked at where it matters
        async for message in socket:
            found.append(json.loads(message))
    return found


async def next_of(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await socket.recv())
    return found


async def test_chat_comes_in_chunks_and_ends_with_done(bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    async with dial(site) as socket:
        await say(socket, type="chat", request=ASKED, requestId="r1")
        accepted, *chunks, done = await hear(socket)
        assert socket.close_code == 1000
    assert accepted == {"type": "accepted", "requestId": "r1"}
    assert done == {"type": "done", "status": "completed"}
    assert "".join(chunk["delta"] for chunk in chunks) == TEXT
    assert set(chunks[0]) == {"type", "id", "delta", "chunk_type", "metadata", "is_final"}
    assert [chunk["is_final"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_cancel_ends_with_an_error_and_stops_the_worker(bridge: Bridge, site: Site) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with dial(site) as socket:
        await say(socket, type="chat", request=ASKED)
        assert [(await next_of(socket))["type"] for _ in range(2)] == ["accepted", "chunk"]
        await say(socket, type="cancel")
        [error] = await hear(socket)
        assert socket.close_code == 1000
    assert (error["type"], error["error"]["message"], error["error"]["httpStatus"]) == ("error", "请求已取消", 499)
    await eventually(lambda: halting.stopped == 1)


async def test_agent_that_failed_ends_with_an_error_and_not_with_done(bridge: Bridge, site: Site) -> None:
    await agent_worker(bridge, failing)
    async with dial(site) as socket:
        await say(socket, type="agent", request={"agentType": "plot", "task": "写"})
        accepted, half, final, error = await hear(socket)
        assert socket.close_code == 1011
    assert (half["delta"], final["is_final"], final["metadata"]["status"]) == ("半章", True, "failed")
    assert (error["type"], error["error"]["code"]) == ("error", "5001")
    assert error["error"]["requestId"] == accepted["requestId"]


async def test_call_is_resumed_on_another_socket_of_another_proxy(bridge: Bridge, open_site: Open) -> None:
    first, second = await open_site(), await open_site()
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with dial(first) as socket:
        await say(socket, type="chat", request=ASKED)
        request_id = (await next_of(socket))["requestId"]
        chunk = await next_of(socket)
    async with dial(second) as socket:
        await say(socket, type="resume", requestId=request_id, **{"from": chunk["id"]})
        assert (await next_of(socket))["type"] == "accepted"
        halting.release.set()
        *chunks, done = await hear(socket)
    assert ("".join(c["delta"] for c in chunks), done["type"]) == ("后", "done")
    assert (halting.ran, halting.stopped) == (1, 0)


async def test_page_may_ask_whether_anybody_is_there(bridge: Bridge, site: Site) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with dial(site) as socket:
        await say(socket, type="ping")
        assert await next_of(socket) == {"type": "pong"}
        await say(socket, type="chat", request=ASKED)
        await next_of(socket), await next_of(socket)
        await say(socket, type="ping")
        assert await next_of(socket) == {"type": "pong"}
        halting.release.set()


BAD: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{", "message"),
    "no type": ("{}", "message.type"),
    "unknown type": ('{"type": "shout"}', "message.type"),
    "bytes": (b"\x00", "message"),
    "no such agent": (
        '{"type": "agent", "request": {"agentType": "poet", "task": "x"}}',
        "message.agent.request.agentType",
    ),
    "cancel before anything": ('{"type": "cancel"}', "message.type"),
    "an id with blanks": (json.dumps({"type": "resume", "requestId": "a b"}), "requestId"),
    "no position": (json.dumps({"type": "resume", "requestId": "a", "from": "x"}), "Last-Event-ID"),
}


@pytest.mark.parametrize(("message", "field"), BAD.values(), ids=BAD)
async def test_message_that_does_not_fit_is_answered_and_ends_the_socket(
    bridge: Bridge, site: Site, message: str | bytes, field: str
) -> None:
    with capture_logs() as logs:
        async with dial(site) as socket:
            await socket.send(message)
            *_, error = await hear(socket)
            assert socket.close_code == 1008
    assert (error["type"], error["error"]["code"]) == ("error", "VALIDATION")
    assert [one["field"] for one in error["error"]["fields"]] == [field]
    assert not logs


@pytest.mark.parametrize(
    ("message", "field", "english", "chinese"),
    [
        ({"type": "不能说的话"}, "message.type", "must be one of 'agent', 'chat', 'resume', 'ping'", "不在可选值之内"),
        ({}, "message.type", "field required", "必填"),
        ({"type": "resume", "requestId": "r", "from": True}, "message.resume.from", "valid string", "须为文本"),
        (b"{}", "message", "not binary", "而不是二进制"),
    ],
    ids=["unknown", "none", "from", "binary"],
)
async def test_message_that_is_none_of_ours_is_told_so_in_both_languages(
    site: Site, message: Any, field: str, english: str, chinese: str
) -> None:
    async with dial(site) as socket:
        await socket.send(message if isinstance(message, bytes) else json.dumps(message))
        [heard] = await hear(socket)
    error = heard["error"]
    assert [one["field"] for one in error["fields"]] == [field]
    assert english in error["messageEn"]
    assert chinese in error["message"]
    assert "不能说" not in json.dumps(heard, ensure_ascii=False)


async def test_frame_that_is_no_utf8_closes_the_socket_and_is_not_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A client could otherwise fill the disk with tracebacks."""
    async with dial(site) as socket:
        await socket.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1007
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_message_over_the_limit_closes_the_socket(open_site: Open) -> None:
    site = await open_site(max_message_bytes=2048)
    async with dial(site) as socket:
        await socket.send("x" * 100_000)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1009


async def test_socket_that_says_nothing_is_told_and_closed(open_site: Open) -> None:
    site = await open_site(body_seconds=0.1)
    async with dial(site) as socket:
        [error] = await hear(socket)
        assert (error["error"]["httpStatus"], socket.close_code) == (408, 1008)


async def refused(site: Site, query: str = "", **more: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as error:
        async with dial(site, query, **more):
            pass
    response = error.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


async def test_page_of_another_origin_is_turned_away(open_site: Open) -> None:
    site = await open_site(allowed_origins=("https://www.example.com",))
    assert await refused(site, origin="https://evil.example") == (403, "PERMISSION_DENIED")
    for origin in ("https://www.example.com", site.origin):
        async with dial(site, origin=origin):
            pass


async def test_socket_at_another_path_is_turned_away_and_nothing_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(f"ws://127.0.0.1:{site.port}/api/v1/ai/other", proxy=None):
            pass
    assert refusal.value.response.status_code == 404
    assert b"NOT_FOUND" in refusal.value.response.body
    with pytest.raises(InvalidStatus):
        async with dial(site, origin="https://elsewhere.example"):
            pass
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_request_at_its_path_that_is_no_socket_is_told_so(site: Site) -> None:
    response = await site.client.get("/api/v1/ai/ws")
    assert (response.headers["upgrade"], response.json()["error"]["message"]) == ("websocket", "该地址只接受 WebSocket")
    error_of(response, 426, "UPGRADE_REQUIRED")


async def test_ticket_opens_one_socket(bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    given = (await site.post("/tickets", {"path": "/api/v1/ai/ws"})).json()
    query = "?ticket=" + given["ticket"]
    async with dial(site, query, additional_headers={}) as socket:
        await say(socket, type="chat", request={**ASKED, "userId": "u1"})
        assert (await hear(socket))[-1]["type"] == "done"
    assert await refused(site, query, additional_headers={}) == (401, "UNAUTHENTICATED")
    assert await refused(site, "?ticket=x", additional_headers={}) == (401, "UNAUTHENTICATED")


async def test_reader_that_stops_for_a_while_misses_nothing(bridge: Bridge, open_site: Open) -> None:
    site = await open_site(send_bytes=4096)

    async def flood(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        for _ in range(15_000):
            yield ai.ChatStreamChunk(delta="字" * 80)
        yield ai.ChatStreamChunk(is_final=True)

    await bridge.worker(stream=flood)
    async with dial(site, max_queue=1) as socket:
        await say(socket, type="chat", request=ASKED)
        await eventually(lambda: bridge.edge.open == 1)
        *chunks, done = (await hear(socket))[1:]
    assert done["type"] == "done"
    assert sum(len(chunk["delta"]) for chunk in chunks) == 80 * 15_000
