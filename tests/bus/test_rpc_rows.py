"""Rpc rows from end to end, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
import time

import pytest

from qingyu_ai import routes
from qingyu_ai.bus.errors import Code, Expired, Fault, Invalid, NotFound, NoWorker
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from tests.bus.system import System
from tests.waiting import eventually


async def answer_search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
    return rag.SearchResponse(total_count=len(request.query))


async def test_rpc_is_answered(system: System) -> None:
    await system.worker(kind="rag", search=answer_search)
    assert (await system.ask("红楼梦")).total_count == 3


async def test_rpc_without_a_worker_is_unavailable_at_once_with_a_retry_hint(system: System) -> None:
    began = time.monotonic()
    with pytest.raises(NoWorker) as refused:
        await system.ask("x", seconds=30)
    assert time.monotonic() - began < 5
    assert refused.value.retry_seconds is not None


async def test_rpc_to_a_full_worker_is_refused_at_once(system: System) -> None:
    release = asyncio.Event()

    async def slow(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        await release.wait()
        return rag.SearchResponse()

    worker = await system.worker(kind="rag", slots=2, search=slow)
    first = [asyncio.create_task(system.ask("x")) for _ in range(2)]
    await eventually(lambda: worker.running == 2)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.retry_seconds is not None
    release.set()
    await asyncio.gather(*first)


async def test_rpc_fault_reaches_the_caller_as_it_was_raised(system: System) -> None:
    async def refuse(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        raise Invalid(("query", "is too strange"))

    await system.worker(kind="rag", search=refuse)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.violations == (("query", "is too strange"),)
    assert "请求无效" in refused.value.chinese


async def test_rpc_exception_reaches_the_caller_as_an_id_only(system: System) -> None:
    async def fail(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        raise RuntimeError("password=hunter2")

    await system.worker(kind="rag", search=fail)
    with pytest.raises(Fault) as refused:
        await system.ask("x")
    assert refused.value.code is Code.INTERNAL
    assert b"hunter2" not in refused.value.status
    assert refused.value.facts["error_id"] in refused.value.message


async def test_rpc_deadline_ends_the_wait_and_the_work(system: System) -> None:
    ended = asyncio.Event()

    async def slow(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    worker = await system.worker(kind="rag", search=slow)
    with pytest.raises(Expired):
        await system.ask("x", seconds=0.2)
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: worker.running == 0)


async def test_rpc_whose_caller_leaves_stops(system: System) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    await system.worker(kind="rag", search=slow)
    asking = asyncio.create_task(system.ask("x", seconds=60))
    await started.wait()
    asking.cancel()
    await asyncio.wait_for(ended.wait(), 5)


async def test_rpc_that_expired_on_its_way_is_dropped_unexecuted(system: System) -> None:
    ran: list[str] = []

    async def note(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        ran.append(request.query)
        return rag.SearchResponse()

    await system.worker(kind="rag", search=note)
    with pytest.raises(Expired):
        await system.ask("late", seconds=0)
    await system.ask("in time")
    assert ran == ["in time"]


async def test_row_that_a_worker_opens_later_is_served_until_it_closes_it(system: System) -> None:
    async def call_tool(call: Call, request: tool.ToolRequest) -> tool.ToolResponse:
        return tool.ToolResponse(result=request.tool_name)

    async def ask(name: str, seconds: float = 5) -> str:
        body = tool.ToolRequest(tool_name=name).SerializeToString()
        subject = f"{routes.CALL_TOOL.subject}.{name}"
        envelope = system.envelope(routes.CALL_TOOL, body, seconds=seconds)
        return tool.ToolResponse.FromString(await system.caller.ask(routes.CALL_TOOL, subject, body, envelope)).result

    async def refused() -> bool:
        try:
            await ask("late", seconds=0.5)
        except (NotFound, NoWorker):
            return True
        except Expired:  # it was on its way when the row was closed
            return False
        return False

    worker = await system.worker(kind="tool")
    await eventually(refused)
    await worker.open_rpc(routes.CALL_TOOL, call_tool, token="late")
    await worker.open_rpc(routes.CALL_TOOL, call_tool, token="late")  # again: heard once all the same
    assert await ask("late") == "late"
    assert "ai.rpc.tool.call.late" in {endpoint.subject for endpoint in worker.identity.endpoints}
    await worker.close_rpc(routes.CALL_TOOL, token="late")
    await eventually(refused)
    assert not worker.identity.endpoints
    await worker.close_rpc(routes.CALL_TOOL, token="late")
    await worker.open_rpc(routes.CALL_TOOL, call_tool, token="late")
    assert await ask("late") == "late"
    await worker.drain(1)
    await eventually(refused)
