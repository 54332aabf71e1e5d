"""AIProxyService through a real bridge to workers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import generate_latest

from bench import echo_worker
from qingyu_ai import routes
from qingyu_ai.bus.errors import NotFound
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.settings import AiProxy
from services.proxy import connection
from services.proxy.errors import AIProxyError
from services.proxy.models import (
    AgentRequest,
    IndexRequest,
    SearchRequest,
    ToolRequest,
)
from services.proxy.service import AIProxyService
from services.proxy.who import NOBODY, Who
from tests.bridge.conftest import Bridge
from tests.ports import free_port
from tests.proxy.conftest import ME, Start, asked, heard


def metric(service: AIProxyService, name: str) -> str:
    lines = generate_latest(service.registry).decode().splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(name + " "))


async def test_chat_is_answered_with_what_follows_it(bridge: Bridge, start: Start) -> None:
    async def chat(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        call.trailers |= {"x-model": "m1", "x-finish-reason": "stop", "x-usage-prompt": "3", "x-usage-completion": "4"}
        assert (call.user, call.project, request.metadata.timestamp > 0) == ("u1", "p1", True)
        return await echo_worker.chat(call, request)

    await bridge.worker(chat=chat)
    answer = await (await start(bridge.port)).chat(asked(), ME)
    assert (answer.message.content, answer.model, answer.finish_reason) == ("夜雨", "m1", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
    assert re.fullmatch(r"req_\d{19}_[0-9a-f]{8}", answer.request_id)


async def test_chat_stream_ends_with_one_final_chunk_that_knows_the_usage(bridge: Bridge, start: Start) -> None:
    async def stream(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        async for chunk in echo_worker.chat_stream(call, request):
            yield chunk
        call.trailers |= {"x-model": "m1", "x-usage-prompt": "3", "x-secret": "no"}

    await bridge.worker(stream=stream)
    chunks = await heard((await start(bridge.port)).chat_stream(asked(context={"deltas": "5"}), ME))
    assert "".join(c.delta for c in chunks) == "夜雨" * 5
    assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].metadata == {"model": "m1", "tokens_prompt": "3"}
    assert chunks[-2].event_id == "10"


async def test_body_cannot_name_another_user(bridge: Bridge, start: Start) -> None:
    service = await start(bridge.port)
    for who in (ME, NOBODY):
        with pytest.raises(AIProxyError) as error:
            await service.chat(asked(user_id="u2"), who)
        assert (error.value.http_status, error.value.fields[0][0]) == (400, "userId")
    assert bridge.edge.open == 0


async def test_nobody_is_told_how_to_say_who_calls(bridge: Bridge, start: Start) -> None:
    service = await start(bridge.port)
    asking = (
        service.execute_agent(AgentRequest(agent_type="plot", task="写"), NOBODY),
        service.rag_search(SearchRequest(query="灯"), NOBODY),
        service.rag_index(IndexRequest(document_id="d", content="灯"), NOBODY),
        service.rag_batch_index([IndexRequest(document_id="d", content="灯")], NOBODY),
        service.rag_delete("d", NOBODY),
        service.chat(asked(user_id="u1"), NOBODY),
    )
    for one in asking:
        with pytest.raises(AIProxyError) as error:
            await one
        [(field, what)] = error.value.fields
        assert (error.value.http_status, field) == (400, "userId")
        assert "X-User-Id" in what
        assert "X-User-Id" in error.value.message


async def test_token_and_user_travel_beside_the_request(bridge: Bridge, start: Start) -> None:
    seen: dict[str, Any] = {}
    admit = bridge.edge._admit

    async def look(route: Any, body: bytes, opened: Any) -> Any:
        seen.update(opened.context.invocation_metadata())
        return await admit(route, body, opened)

    bridge.edge._admit = look  # type: ignore[method-assign]
    await bridge.worker()
    who = Who("用户 1", "p", token="a.b.c")
    await (await start(bridge.port)).chat(asked(), who, request_id="r1")
    assert seen["authorization"] == "Bearer a.b.c"
    assert (seen["x-user-id"], seen["x-project-id"]) == ("%E7%94%A8%E6%88%B7%201", "p")
    assert (seen["x-request-id"], seen["x-linger-ms"]) == ("r1", "30000")


async def test_agents_answer_with_parsed_json_and_are_counted(bridge: Bridge, start: Start) -> None:
    async def agent(call: Call, request: ai.AgentRequest) -> ai.AgentResponse:
        calls = [
            common.ToolCall(tool_name="count", parameters='{"text": "雨"}', result='{"zi": 1}', duration_ms=3),
            common.ToolCall(tool_name="nope", status=common.Status(code=5, message="no such tool")),
        ]
        stats = ai.AgentStats(tokens_used=700, duration_ms=9, tool_calls_count=2)
        failed = common.Status(code=8, message="out of steps")
        return ai.AgentResponse(output="半", status="failed", tool_calls=calls, stats=stats, response_status=failed)

    await bridge.worker("agent", agent=agent)
    service = await start(bridge.port)
    answer = await service.execute_agent(AgentRequest(agent_type="plot", task="写"), ME)
    assert (answer.status, answer.output, answer.error) == ("failed", "半", "out of steps")
    with pytest.raises(AIProxyError) as error:
        answer.raise_if_failed()
    assert (error.value.code, error.value.http_status, error.value.retryable) == ("5001", 500, False)
    assert (error.value.message, error.value.english) == (
        "智能体执行失败：out of steps",
        "The agent failed: out of steps",
    )
    assert error.value.request_id == answer.request_id != ""
    answer.model_copy(update={"status": "timeout"}).raise_if_failed()
    assert (answer.tool_calls[0].parameters, answer.tool_calls[0].result) == ({"text": "雨"}, {"zi": 1})
    assert [call.success for call in answer.tool_calls] == [True, False]
    assert metric(service, 'ai_agent_requests_total{agent_type="plot",status="failed"}') == "1.0"
    assert metric(service, 'ai_agent_tokens_used_bucket{agent_type="plot",le="1000.0"}') == "1.0"
    assert metric(service, 'ai_agent_duration_seconds_bucket{agent_type="plot",le="300.0"}') == "1.0"
    assert metric(service, 'ai_tool_calls_total{status="success",tool_name="count"}') == "1.0"
    assert metric(service, 'ai_tool_calls_total{status="failed",tool_name="unknown"}') == "1.0"


async def test_tools_answer_with_parsed_json_and_a_failure_is_an_answer(bridge: Bridge, start: Start) -> None:
    async def count(call: Call, request: tool.ToolRequest) -> tool.ToolResponse:
        if "bad" in request.parameters:
            return tool.ToolResponse(success=False, error="no / 不行", status=common.Status(code=9))
        return tool.ToolResponse(result='{"zi": 2}', success=True, duration_ms=1)

    await bridge.worker("tool", tool=count, name="count")
    service = await start(bridge.port)
    assert (await service.call_tool(ToolRequest(tool_name="count", parameters={"a": [1, None]}), ME)).result == {
        "zi": 2
    }
    failed = await service.call_tool(ToolRequest(tool_name="count", parameters={"bad": True}), ME)
    assert (failed.success, failed.error, failed.result) == (False, "no / 不行", None)
    with pytest.raises(AIProxyError) as error:
        failed.raise_if_failed()
    assert (error.value.code, error.value.http_status) == ("5003", 500)
    assert (error.value.message, error.value.english) == ("工具执行失败：不行", "The tool failed: no")
    with pytest.raises(AIProxyError) as error:
        await service.call_tool(ToolRequest(tool_name="nope"), ME)
    assert error.value.http_status == 404
    assert metric(service, 'ai_tool_calls_total{status="failed",tool_name="count"}') == "1.0"
    assert metric(service, 'ai_tool_calls_total{status="failed",tool_name="unknown"}') == "1.0"


async def test_documents_are_found_stored_and_removed(bridge: Bridge, start: Start) -> None:
    await bridge.worker("rag")
    service = await start(bridge.port)
    assert (await service.rag_search(SearchRequest(query="灯"), ME)).results[0].content == "灯"
    assert (await service.rag_index(IndexRequest(document_id="d", content="灯"), ME)).chunks_count == 1
    batch = [IndexRequest(document_id=f"d{i}", content="灯") for i in range(20)]
    assert (await service.rag_batch_index(batch, ME)).success_count == 20
    assert (await service.rag_delete("d", ME)).success


async def test_document_that_was_not_stored_is_an_error(bridge: Bridge, start: Start) -> None:
    async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        return rag.IndexResponse(document_id=request.document_id, success=False, message="too short")

    await bridge.worker("rag", index=index)
    with pytest.raises(AIProxyError) as error:
        await (await start(bridge.port)).rag_index(IndexRequest(document_id="d", content="灯"), ME)
    assert (error.value.code, error.value.http_status) == ("5002", 500)
    assert (error.value.message, error.value.english) == ("检索服务失败：too short", "Retrieval failed: too short")


async def test_search_whose_answer_says_that_it_failed_is_an_error(bridge: Bridge, start: Start) -> None:
    async def search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        return rag.SearchResponse(status=common.Status(code=14, message="no index / 没有索引"))

    await bridge.worker("rag", search=search)
    with pytest.raises(AIProxyError) as error:
        await (await start(bridge.port)).rag_search(SearchRequest(query="灯"), ME)
    assert (error.value.code, error.value.message) == ("5002", "检索服务失败：没有索引")


async def test_fault_of_a_worker_reaches_the_caller(bridge: Bridge, start: Start) -> None:
    async def stream(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="前")
        raise NotFound("model", "模型", "x")

    await bridge.worker(stream=stream)
    with pytest.raises(AIProxyError) as error:
        await heard((await start(bridge.port)).chat_stream(asked(), ME))
    assert (error.value.http_status, error.value.message) == (404, "没有名为 'x' 的模型")


async def test_health_raises_unless_the_answer_is_healthy_and_a_start_only_warns(bridge: Bridge, start: Start) -> None:
    service = await start(bridge.port)
    assert not service.well
    with pytest.raises(AIProxyError) as error:
        await service.health()
    assert "worker.chat: none running" in error.value.english
    await bridge.worker()
    assert (await service.health()).status == "healthy"


async def test_start_without_a_bridge_fails_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.proxy.service.CONNECT_SECONDS", 0.3)
    assert connection.CONNECT_SECONDS == 10.0
    with pytest.raises(AIProxyError) as error:
        await AIProxyService.start(AiProxy(python_addr=f"127.0.0.1:{free_port()}"))
    assert (error.value.http_status, error.value.message) == (503, "AI服务不可用")


async def test_every_stream_row_of_the_contract_can_be_followed() -> None:
    assert [r.method for r in routes.ROUTES if isinstance(r, routes.StreamJob)] == ["ExecuteAgentStream", "ChatStream"]


async def test_metrics_can_be_switched_off(bridge: Bridge, start: Start) -> None:
    service = await start(bridge.port, enable_metrics=False)
    assert generate_latest(service.registry) == b""
