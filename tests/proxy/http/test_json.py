"""JSON in, JSON out; every mistake has an answer in one form."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from tests.bridge.conftest import Bridge
from tests.bridge.halting import Halting
from tests.proxy.http.conftest import ME, Open, Site
from tests.waiting import eventually

ASKED = {"messages": [{"role": "user", "content": "夜雨"}]}


def error_of(response: Any, status: int, code: str) -> dict[str, Any]:
    """Check the form of an error."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert (error["code"], error["httpStatus"], error["category"], error["service"]) == (code, status, "ai", "ai_proxy")
    assert error["message"]
    assert error["messageEn"]
    return error


async def test_chat_is_answered_with_camel_case_names(bridge: Bridge, site: Site) -> None:
    await bridge.worker()
    response = await site.post("/chat", ASKED, headers={"X-Request-Id": "r1"})
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "r1"
    assert response.json() == {
        "message": {"role": "assistant", "content": "夜雨", "metadata": {}},
        "tokensUsed": 1,
        "usage": {"promptTokens": 0, "completionTokens": 0, "estimated": False},
        "model": "",
        "finishReason": "",
        "error": "",
        "requestId": "r1",
    }


async def test_agent_is_named_by_the_path(bridge: Bridge, site: Site) -> None:
    async def agent(call: Call, request: ai.AgentRequest) -> ai.AgentResponse:
        calls = [common.ToolCall(tool_name="count", parameters='{"a": 1}', result="[2]", duration_ms=3)]
        stats = ai.AgentStats(tokens_used=7, duration_ms=8, tool_calls_count=1, retry_count=2)
        return ai.AgentResponse(output=f"{call.user} {request.task}", status="completed", tool_calls=calls, stats=stats)

    await bridge.worker("agent", agent=agent)
    response = await site.post("/agents/plot", {"task": "写", "options": {"maxTokens": 5}})
    answer = response.json()
    assert answer["output"] == "u1 写"
    assert answer["stats"] == {"tokensUsed": 7, "durationMs": 8, "toolCallsCount": 1, "retryCount": 2}
    [called] = answer["toolCalls"]
    assert (called["toolName"], called["parameters"], called["result"]) == ("count", {"a": 1}, [2])
    error_of(await site.post("/agents/poet", {"task": "写"}), 404, "NOT_FOUND")
    error_of(await site.post("/agents/plot", {"task": "写", "agentType": "review"}), 400, "VALIDATION")


async def test_documents_and_tools_have_their_routes(bridge: Bridge, site: Site) -> None:
    async def count(call: Call, request: tool.ToolRequest) -> tool.ToolResponse:
        return tool.ToolResponse(result=request.parameters, success=True)

    await bridge.worker("rag")
    await bridge.worker("tool", tool=count, name="count")
    assert (await site.post("/rag/search", {"query": "灯"})).json()["results"][0]["content"] == "灯"
    assert (await site.post("/rag/documents", {"documentId": "d", "content": "灯"})).json()["chunksCount"] == 1
    lines = "\n".join(json.dumps({"documentId": f"d{i}", "content": "灯"}) for i in range(7)) + "\n\n"
    headers = ME | {"Content-Type": "application/x-ndjson"}
    batch = await site.client.post("/api/v1/ai/rag/documents", content=lines, headers=headers)
    assert (batch.json()["total"], batch.json()["successCount"], batch.json()["failedIds"]) == (7, 7, [])
    assert (await site.client.delete("/api/v1/ai/rag/documents/d%20灯", headers=ME)).json()["success"]
    assert (await site.post("/tools/count", {"parameters": {"x": [1]}})).json()["result"] == {"x": [1]}


async def test_health_and_metrics_are_for_whoever_asks(bridge: Bridge, site: Site) -> None:
    error_of(await site.client.get("/health"), 503, "SERVICE_UNAVAILABLE")
    await bridge.worker()
    assert (await site.client.get("/health")).json()["status"] == "healthy"
    assert "ai_agent_requests_total" in (await site.client.get("/metrics")).text
    assert "ai_proxy_breaker_state 0.0" in (await site.client.get("/metrics")).text


BAD: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("/chat", b"{", "body"),
    "nothing": ("/chat", b"", "body"),
    "a list": ("/chat", b"[]", "body"),
    "no messages": ("/chat", b'{"messages": []}', "messages"),
    "no such role": ("/chat", b'{"messages": [{"role": "poet", "content": "x"}]}', "messages[0].role"),
    "a number for a text": ("/chat", b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
    "a text for a number": (
        "/chat",
        b'{"messages": [{"role": "user", "content": "x"}], "maxTokens": "5"}',
        "maxTokens",
    ),
    "too hot": ("/agents/plot", b'{"task": "x", "options": {"temperature": 9}}', "options.temperature"),
    "not a number": ("/agents/plot", b'{"task": "x", "options": {"temperature": NaN}}', "options.temperature"),
    "negative": ("/agents/plot", b'{"task": "x", "options": {"maxTokens": -5}}', "options.maxTokens"),
    "years": ("/agents/plot", b'{"task": "x", "options": {"timeoutSeconds": 99999999999}}', "options.timeoutSeconds"),
    "a field too many": ("/agents/plot", b'{"task": "x", "tsak": "y"}', "tsak"),
    "half a character": ("/agents/plot", b'{"task": "\\ud800"}', "body"),
    "no UTF-8": ("/agents/plot", b'{"task": "\xff"}', "body"),
    "no task": ("/agents/plot", b"{}", "task"),
    "too deep": ("/tools/count", b'{"parameters": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "body"),
    "another user": ("/chat", json.dumps({**ASKED, "userId": "u2"}).encode(), "userId"),
}


@pytest.mark.parametrize(("path", "body", "field"), BAD.values(), ids=BAD)
async def test_body_that_does_not_fit_is_named_by_its_field(site: Site, path: str, body: bytes, field: str) -> None:
    with capture_logs() as logs:
        headers = ME | {"Content-Type": "application/json"}
        response = await site.client.post(f"/api/v1/ai{path}", content=body, headers=headers)
    error = error_of(response, 400, "VALIDATION")
    assert [one["field"] for one in error["fields"]] == [field]
    assert not error["retryable"]
    assert not logs


@pytest.mark.parametrize(
    ("body", "chinese", "english"),
    [
        ('{"task": "雨停了"}'.encode("gbk"), "须为 UTF-8 编码", "must be UTF-8"),
        ('{"task": "写"}'.encode("utf-16"), "须为 UTF-8 编码", "must be UTF-8"),
        ('{"task": "写"}'.encode("utf-8-sig"), "BOM", "byte order mark"),
    ],
    ids=["GBK", "UTF-16", "BOM"],
)
async def test_body_in_another_encoding_is_told_so(site: Site, body: bytes, chinese: str, english: str) -> None:
    headers = ME | {"Content-Type": "application/json"}
    error = error_of(await site.client.post("/api/v1/ai/agents/plot", content=body, headers=headers), 400, "VALIDATION")
    assert chinese in error["message"]
    assert english in error["messageEn"]


CHARACTER = re.compile("[一-鿿]")


@pytest.mark.parametrize(
    ("path", "body"),
    [("/agents/plot", {"agentType": "outline", "task": "写"}), ("/tools/count", {"toolName": "other"})],
    ids=["agent", "tool"],
)
async def test_body_that_differs_from_its_path_is_told_so_in_both_languages(site: Site, path: str, body: Any) -> None:
    error = error_of(await site.post(path, body), 400, "VALIDATION")
    assert CHARACTER.search(error["message"].removeprefix("请求无效："))
    assert "differs from the path" in error["messageEn"]


@pytest.mark.parametrize(
    "path", ["//evil.example/x", "/\\evil.example/x", "https://evil.example", "/x?y", "/x#y", "", "/灯"]
)
async def test_ticket_is_given_to_a_path_of_this_server_only(site: Site, path: str) -> None:
    """Its `url` is opened by a page, and a browser reads `//host` as another server's address."""
    error = error_of(await site.post("/tickets", {"path": path}), 400, "VALIDATION")
    assert error["fields"] == [
        {"field": "path", "description": "must be a path of this proxy, such as /api/v1/ai/ws, without a query"}
    ]


async def test_rules_of_the_bridge_are_passed_on_in_both_languages(bridge: Bridge, site: Site) -> None:
    await bridge.worker()
    error = error_of(await site.post("/chat", {**ASKED, "model": "x" * 200}), 400, "VALIDATION")
    assert error["fields"] == [{"field": "model", "description": "has 200 characters; the limit is 128"}]
    assert "长度为 200 字符" in error["message"]
    assert error["requestId"]


async def test_nobody_there_is_503_with_a_time_to_come_back(open_site: Open) -> None:
    site = await open_site(ai={"max_retries": 1})
    response = await site.post("/chat", ASKED)
    error = error_of(response, 503, "SERVICE_UNAVAILABLE")
    assert (error["cause"], error["retryable"], response.headers["retry-after"]) == ("NO_WORKER", True, "1")


async def test_unknown_paths_and_methods_say_so(site: Site) -> None:
    assert "/docs" in error_of(await site.client.get("/nope"), 404, "NOT_FOUND")["messageEn"]
    error_of(await site.client.get("/api/v1/ai/chat/"), 404, "NOT_FOUND")
    response = await site.client.put("/api/v1/ai/tools/x")
    error_of(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "GET, HEAD, POST"


async def test_reading_routes_have_a_head_without_a_body(site: Site) -> None:
    for path in ("/docs", "/openapi.json", "/metrics"):
        response = await site.client.head(path)
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 100


async def test_ids_in_a_path_may_hold_slashes_and_other_letters(bridge: Bridge, site: Site) -> None:
    deleted = []

    async def delete(call: Call, request: rag.DeleteRequest) -> rag.DeleteResponse:
        deleted.append(request.document_id)
        return rag.DeleteResponse(success=True)

    await bridge.worker("rag", delete=delete)
    for document_id in ("novel/3", "第 3 章/上?#", "a/../b"):
        response = await site.client.delete(f"/api/v1/ai/rag/documents/{quote(document_id, safe='')}", headers=ME)
        assert response.status_code == 200
    assert deleted == ["novel/3", "第 3 章/上?#", "a/../b"]
    for path in ("/api/v1/ai/rag/documents/novel/3", "/api/v1/ai/rag/documents/", "//api/v1/ai/tools"):
        error_of(await site.client.delete(path, headers=ME), 404, "NOT_FOUND")


async def test_body_over_the_limit_is_refused_with_and_without_a_length(open_site: Open) -> None:
    site = await open_site(max_body_bytes=2048)

    async def drip() -> Any:
        for _ in range(100):
            yield b" " * 100

    headers = ME | {"Content-Type": "application/json"}
    for content in (b" " * 10_000_000, drip()):
        response = await site.client.post("/api/v1/ai/chat", content=content, headers=headers)
        assert "2048" in error_of(response, 413, "TOO_LARGE")["message"]


@pytest.mark.parametrize("given", [None, "text/plain", "multipart/form-data; boundary=x"])
async def test_content_that_is_no_json_is_refused_by_its_type(site: Site, given: str | None) -> None:
    headers = ME | ({"Content-Type": given} if given else {})
    response = await site.client.post("/api/v1/ai/chat", content=b"{}", headers=headers)
    error_of(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("name", "value"), [("X-Request-Id", "a b"), ("X-Request-Id", "x" * 200), ("X-Remaining-Ms", "-1")]
)
async def test_header_that_does_not_fit_is_named(site: Site, name: str, value: str) -> None:
    error = error_of(await site.post("/chat", ASKED, headers={name: value}), 400, "VALIDATION")
    assert error["fields"][0]["field"].lower() == name.lower()


async def test_document_of_a_batch_that_does_not_fit_is_named_by_its_number(site: Site) -> None:
    headers = ME | {"Content-Type": "application/x-ndjson"}
    for body, field in (
        (b'{"documentId": "a", "content": "x"}\n{"documentId": "b"}', "documents[1].content"),
        (b"\n", "body"),
    ):
        response = await site.client.post("/api/v1/ai/rag/documents", content=body, headers=headers)
        assert error_of(response, 400, "VALIDATION")["fields"][0]["field"] == field


async def test_client_that_leaves_a_unary_call_stops_the_worker(bridge: Bridge, site: Site) -> None:
    halting = Halting()
    await bridge.worker(chat=halting.chat)
    task = asyncio.create_task(site.post("/chat", ASKED))
    await eventually(lambda: halting.ran == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: halting.stopped == 1)


async def test_time_that_the_client_has_left_is_kept(bridge: Bridge, site: Site) -> None:
    halting = Halting()
    await bridge.worker(chat=halting.chat)
    response = await site.post("/chat", ASKED, headers={"X-Remaining-Ms": "300"})
    assert error_of(response, 504, "TIMEOUT")["message"] == "AI服务响应超时"
    await eventually(lambda: halting.stopped == 1)


async def test_exception_of_ours_is_logged_once_and_shown_as_an_id(
    bridge: Bridge, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(site.face.service, "chat", broken)
    with capture_logs() as logs:
        response = await site.post("/chat", ASKED)
    error = error_of(response, 500, "INTERNAL")
    assert "secret" not in response.text
    [line] = logs
    assert line["error_id"] in error["message"]


async def slow_head(site: Site, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_client_that_never_ends_its_head_is_told_and_cut_off(open_site: Open) -> None:
    site = await open_site(head_seconds=0.2)
    answer = await slow_head(site, b"GET /health HTTP/1.1\r\n", b"Host: x\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in answer
    assert await slow_head(site) == b""


async def test_client_that_never_ends_its_body_is_told(open_site: Open) -> None:
    site = await open_site(body_seconds=0.2)
    head = b"POST /api/v1/ai/chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    answer = await slow_head(site, head + b"Connection: close\r\n\r\n", b"{")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_head_without_an_end_is_bounded(site: Site) -> None:
    answer = await slow_head(site, b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"x" * 20_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_bytes_that_are_no_http_get_an_error_in_the_same_form(site: Site) -> None:
    answer = await slow_head(site, b"\x16\x03\x01\x02 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "VALIDATION"


async def test_keep_alive_has_a_time_for_each_head(open_site: Open, bridge: Bridge) -> None:
    """The second request of a connection that is open already is as slow as the first could be."""
    await bridge.worker()
    site = await open_site(head_seconds=0.3)
    answer = await slow_head(site, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer
