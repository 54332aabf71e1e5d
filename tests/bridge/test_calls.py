"""Every kind of row through the bridge, as a caller sees it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.records import Records
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.settings import Bridge as BridgeSettings
from tests.bridge.conftest import Bridge, Refusal, chat
from tests.waiting import eventually

UNAVAILABLE_ROWS: list[tuple[routes.Route[Any, Any], Any]] = [
    (routes.EXECUTE_AGENT, ai.AgentRequest(agent_type="creative", task="写", user_id="u")),
    (routes.CHAT, chat("你好")),
    (routes.SEARCH, rag.SearchRequest(query="q", user_id="u")),
    (routes.INDEX_DOCUMENT, rag.IndexRequest(document_id="d", content="c", user_id="u")),
    (routes.DELETE_DOCUMENT, rag.DeleteRequest(document_id="d", user_id="u")),
    (routes.CALL_TOOL, tool.ToolRequest(tool_name="calc")),
    (routes.LIST_TOOLS, tool.ListToolsRequest()),
    (routes.GET_TOOL_INFO, tool.GetToolInfoRequest(tool_name="calc")),
]


@pytest.mark.parametrize(("route", "request_"), UNAVAILABLE_ROWS, ids=lambda x: getattr(x, "method", ""))
async def test_row_without_a_worker_is_unavailable_at_once(bridge: Bridge, route: Any, request_: Any) -> None:
    began = time.monotonic()
    refusal = await bridge.refused(route, request_, timeout=30)
    assert time.monotonic() - began < 5
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.fault.reason == "NO_WORKER"
    assert refusal.fault.retry_seconds is not None
    assert (await bridge.bus.used("AI_CHAT")).bytes == (await bridge.bus.used("AI_JOBS")).bytes == 0


async def test_streams_without_a_worker_are_unavailable_too(bridge: Bridge) -> None:
    for route, request in (
        (routes.CHAT_STREAM, chat("x")),
        (routes.EXECUTE_AGENT_STREAM, ai.AgentRequest(agent_type="plot", task="t", user_id="u")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await bridge.streaming(route)(request, timeout=10).read()
        assert Refusal.of(error.value).code is grpc.StatusCode.UNAVAILABLE
    method: Any = bridge.channel.stream_unary(routes.BATCH_INDEX.path)
    call = method(iter([b""]), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert Refusal.of(error.value).fault.reason == "NO_WORKER"


async def test_rpc_row_answers(bridge: Bridge) -> None:
    await bridge.worker("rag")
    reply = await bridge.unary(routes.SEARCH)(rag.SearchRequest(query="黛玉葬花", user_id="u"), timeout=5)
    assert reply.results[0].content == "黛玉葬花"


async def test_job_row_answers(bridge: Bridge) -> None:
    await bridge.worker()
    reply = await bridge.unary(routes.CHAT)(chat("你好"), timeout=5)
    assert reply.message.content == "你好"


async def test_stream_arrives_whole_with_exactly_one_final_chunk(bridge: Bridge) -> None:
    await bridge.worker()
    request = chat("红楼梦", context={"deltas": "300"})
    chunks = [chunk async for chunk in bridge.streaming(routes.CHAT_STREAM)(request, timeout=20)]
    assert "".join(c.delta for c in chunks) == "红楼梦" * 300
    assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_paced_stream_arrives_as_it_is_said(bridge: Bridge) -> None:
    await bridge.worker()
    request = chat("字", context={"deltas": "20", "per_second": "40"})
    times = [
        time.monotonic() async for chunk in bridge.streaming(routes.CHAT_STREAM)(request, timeout=20) if chunk.delta
    ]
    assert len(times) == 20
    assert times[-1] - times[0] > 0.3


async def test_request_id_comes_back_in_the_initial_metadata(bridge: Bridge) -> None:
    await bridge.worker()
    call = bridge.unary(routes.CHAT)(chat("x"), timeout=5)
    made = dict(await call.initial_metadata())["x-request-id"]
    assert re.fullmatch(r"req_\d{19}_[0-9a-f]{8}", made)
    await call
    call = bridge.unary(routes.CHAT)(chat("x", metadata={"request_id": "mine-1"}), timeout=5)
    assert dict(await call.initial_metadata())["x-request-id"] == "mine-1"
    await call
    call = bridge.unary(routes.CHAT)(chat("x"), timeout=5, metadata=(("x-request-id", "mine-2"),))
    assert dict(await call.initial_metadata())["x-request-id"] == "mine-2"
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-2"


async def test_refused_request_gets_its_own_id_back(bridge: Bridge) -> None:
    empty = ai.ChatRequest(metadata={"request_id": "mine-1"})  # type: ignore[arg-type]
    assert (await bridge.refused(routes.CHAT, empty)).request_id == "mine-1"
    assert (await bridge.refused(routes.CHAT, b"\xff", (("x-request-id", "mine-2"),))).request_id == "mine-2"
    assert (await bridge.refused(routes.CHAT, b"\xff")).request_id.startswith("req_")


async def test_retry_with_another_timestamp_is_the_same_request(bridge: Bridge) -> None:
    ran = 0

    async def count(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        nonlocal ran
        ran += 1
        return ai.ChatResponse(tokens_used=ran)

    await bridge.worker(chat=count)
    for timestamp in (1, 2, 3):
        request = chat("x", metadata={"request_id": "r", "user_id": "u", "timestamp": timestamp})
        assert (await bridge.unary(routes.CHAT)(request, timeout=5)).tokens_used == 1
    refusal = await bridge.refused(routes.CHAT, chat("y", metadata={"request_id": "r", "user_id": "u"}))
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    assert refusal.fault.reason == "REQUEST_ID_REUSED"
    # Another user's call of that name is another call.
    other = chat("y", metadata={"request_id": "r", "user_id": "v"})
    assert (await bridge.unary(routes.CHAT)(other, timeout=5)).tokens_used == 2


async def test_fault_of_a_worker_reaches_the_caller_with_its_details(bridge: Bridge) -> None:
    async def refuse(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        raise Fault(Code.FAILED_PRECONDITION, "NOT_YET", "Not yet", "还不行", retry_seconds=3, facts={"k": "v"})

    await bridge.worker(chat=refuse)
    refusal = await bridge.refused(routes.CHAT, chat("x"))
    assert (refusal.code, refusal.message) == (grpc.StatusCode.FAILED_PRECONDITION, "Not yet")
    fault = refusal.fault
    assert (fault.reason, fault.chinese, fault.retry_seconds, fault.facts) == ("NOT_YET", "还不行", 3.0, {"k": "v"})
    assert refusal.request_id


async def test_exception_of_a_worker_reaches_the_caller_as_an_id(bridge: Bridge) -> None:
    async def fail(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        raise RuntimeError("/etc/secret")

    await bridge.worker(chat=fail)
    refusal = await bridge.refused(routes.CHAT, chat("x"))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "secret" not in refusal.message
    assert re.fullmatch(r"[0-9a-f]{12}", refusal.fault.facts["error_id"])


async def test_tool_that_nobody_serves_is_not_found_while_tool_workers_run(bridge: Bridge) -> None:
    async def answer(call: Call, request: tool.ToolRequest) -> tool.ToolResponse:
        return tool.ToolResponse(result="42", success=True)

    await bridge.worker("tool", tool=answer, name="calc")
    assert (await bridge.unary(routes.CALL_TOOL)(tool.ToolRequest(tool_name="calc"), timeout=5)).result == "42"
    for name in ("nobody_has_this", "No.Such*Tool"):
        refusal = await bridge.refused(routes.CALL_TOOL, tool.ToolRequest(tool_name=name))
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert name in refusal.message


async def cut_stream(ended: asyncio.Event) -> Any:
    async def stream(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        try:
            yield ai.ChatStreamChunk(delta="开头")
            await asyncio.sleep(60)
        finally:
            ended.set()

    return stream


async def test_caller_that_cancels_stops_the_work(bridge: Bridge) -> None:
    ended = asyncio.Event()
    worker = await bridge.worker(stream=await cut_stream(ended))
    call = bridge.streaming(routes.CHAT_STREAM)(chat("x", metadata={"request_id": "c1"}), timeout=60)
    assert (await call.read()).delta == "开头"
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: worker.running == 0)
    refusal_code = await _status_of_same_request(bridge, "c1")
    assert refusal_code is grpc.StatusCode.CANCELLED


async def _status_of_same_request(bridge: Bridge, request_id: str) -> grpc.StatusCode:
    """How it ends; what it had said comes first, as it did then."""
    call = bridge.streaming(routes.CHAT_STREAM)(chat("x", metadata={"request_id": request_id}), timeout=10)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as e:
        return e.code()
    return grpc.StatusCode.OK


async def test_grpc_deadline_ends_the_call_and_the_work(bridge: Bridge) -> None:
    ended = asyncio.Event()
    worker = await bridge.worker(stream=await cut_stream(ended))
    call = bridge.streaming(routes.CHAT_STREAM)(chat("x"), timeout=0.5)
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        [chunk async for chunk in call]
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: worker.running == 0)


async def test_unary_deadline_is_written_into_the_record(bridge: Bridge) -> None:
    async def slow(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await asyncio.sleep(60)
        raise AssertionError

    await bridge.worker(chat=slow)
    refusal_call = bridge.unary(routes.CHAT)(chat("x", metadata={"request_id": "d1"}), timeout=0.4)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await refusal_call
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    from qingyu_ai.bus.subjects import call_id

    async def decided() -> bool:
        entry = await Records(bridge.bus, bridge.settings.bus).read(call_id("", "Chat", "d1"))
        return entry is not None and entry.done

    await eventually(decided)


@pytest.mark.parametrize("bridge_settings", [BridgeSettings(port=0, max_calls=4)])
async def test_full_bridge_refuses_at_once_with_a_hint(bridge: Bridge) -> None:
    release = asyncio.Event()

    async def wait(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await release.wait()
        return ai.ChatResponse(tokens_used=7)

    await bridge.worker(chat=wait)
    calls = [asyncio.ensure_future(bridge.unary(routes.CHAT)(chat(str(i)), timeout=30)) for i in range(4)]
    await eventually(lambda: bridge.edge.open == 4)
    refusal = await bridge.refused(routes.CHAT, chat("one too many"))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.fault.reason == "OVERLOADED"
    assert refusal.fault.retry_seconds is not None
    release.set()
    assert [r.tokens_used for r in await asyncio.gather(*calls)] == [7] * 4


async def test_trace_context_travels_and_nothing_else_of_the_callers_metadata(bridge: Bridge) -> None:
    seen: list[Call] = []

    async def note(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        seen.append(call)
        return ai.ChatResponse()

    await bridge.worker(chat=note)
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    metadata = (
        ("traceparent", parent),
        ("authorization", "Bearer secret"),
        ("qai-roles", "admin"),
        ("qai-user", "root"),
    )
    await bridge.unary(routes.CHAT)(chat("x", metadata={"user_id": "用户一"}), timeout=5, metadata=metadata)
    assert (seen[0].traceparent, seen[0].user, seen[0].roles) == (parent, "用户一", ())


async def test_slow_reader_does_not_slow_the_others_and_gets_everything(bridge: Bridge) -> None:
    await bridge.worker()
    text = "红" * 400
    slow = bridge.streaming(routes.CHAT_STREAM)(chat(text, context={"deltas": "1500"}), timeout=60)
    await slow.read()
    fast = chat("快", context={"deltas": "50"})
    for _ in range(20):
        chunks = [c async for c in bridge.streaming(routes.CHAT_STREAM)(fast, timeout=10)]
        assert "".join(c.delta for c in chunks) == "快" * 50
    received = len(text)
    while (chunk := await slow.read()) is not grpc.aio.EOF:
        received += len(chunk.delta)
    assert received >= len(text) * 1500
