"""Limiter, breaker, timeout and retry around real gRPC calls; attempts are counted at the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Fault, Interrupted, Invalid, NotFound, NoWorker, Overloaded
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.routes import CHAT, CHAT_STREAM, EXECUTE_AGENT, EXECUTE_AGENT_STREAM, HEALTH_CHECK, LIST_TOOLS
from services.proxy import protection
from services.proxy.breaker import State
from services.proxy.errors import CIRCUIT_OPEN, DETAILS_KEY, RATE_LIMIT, AIProxyError
from services.proxy.models import AgentOptions, AgentRequest, ChatRequest, Message
from services.proxy.service import AIProxyService
from tests.proxy.conftest import ME, Peer, Start
from tests.waiting import eventually

ASKED = ChatRequest(messages=[Message(role="user", content="问")])


class Pauses(list[float]):
    """What a call has waited between its attempts."""


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Waits are noted, not waited."""
    found = Pauses()
    real = asyncio.sleep

    async def sleep(seconds: float, result: object = None) -> None:
        found.append(seconds)
        await real(0)

    class Clock:
        def __getattr__(self, name: str) -> Any:
            return sleep if name == "sleep" else getattr(asyncio, name)

    monkeypatch.setattr(protection, "asyncio", Clock())
    return found


def failing(fault: Fault, times: int = 99) -> Any:
    """Answer with a fault so often, then well."""
    left = [times]

    async def answer(body: bytes, context: Any) -> tool.ListToolsResponse:
        if not left[0]:
            return tool.ListToolsResponse()
        left[0] -= 1
        code = next(code for code in grpc.StatusCode if code.value[0] == fault.code)
        await context.abort(code, fault.message, ((DETAILS_KEY, fault.status),))
        raise AssertionError

    return answer


async def refused(service: AIProxyService, **how: Any) -> AIProxyError:
    with pytest.raises(AIProxyError) as error:
        await service.list_tools(ME, **how)
    return error.value


async def test_unavailability_is_tried_again_with_one_id_and_growing_waits(
    peer: Peer, start: Start, pauses: Pauses
) -> None:
    peer.on(LIST_TOOLS, failing(NoWorker("tool"), 3))
    service = await start(peer.port, max_retries=4)
    await service.list_tools(ME)
    ids = [metadata["x-request-id"] for method, metadata, _ in peer.calls if method == LIST_TOOLS.path]
    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert [1 <= pauses[0] <= 1.25, 2 <= pauses[1] <= 2.5, 4 <= pauses[2] <= 5] == [True] * 3
    assert service.protection.retries == 3


async def test_attempts_are_at_most_as_many_as_configured(peer: Peer, start: Start) -> None:
    peer.on(LIST_TOOLS, failing(NoWorker("tool")))
    service = await start(peer.port, max_retries=3)
    error = await refused(service)
    assert (error.http_status, peer.count(LIST_TOOLS)) == (503, 3)
    assert error.request_id.startswith("req_")


async def test_delay_that_the_other_side_names_is_respected(peer: Peer, start: Start, pauses: Pauses) -> None:
    fault = NoWorker("tool")
    fault.retry_seconds = 7.5
    peer.on(LIST_TOOLS, failing(fault, 1))
    await (await start(peer.port)).list_tools(ME)
    assert pauses == [7.5]


async def test_nobody_waits_longer_than_the_caller_does(peer: Peer, start: Start, pauses: Pauses) -> None:
    fault = NoWorker("tool")
    fault.retry_seconds = 60.0
    peer.on(LIST_TOOLS, failing(fault))
    error = await refused(await start(peer.port), deadline=Deadline.after(20))
    assert (error.reason, peer.count(LIST_TOOLS), pauses) == ("NO_WORKER", 1, [])


@pytest.mark.parametrize(
    "fault",
    [Overloaded("Full", "满"), Invalid(("f", "is required")), Interrupted()],
    ids=["rate limit", "bad input", "final"],
)
async def test_what_waiting_does_not_mend_is_asked_once(peer: Peer, start: Start, fault: Fault) -> None:
    peer.on(LIST_TOOLS, failing(fault))
    await refused(await start(peer.port))
    assert peer.count(LIST_TOOLS) == 1


async def test_limiter_refuses_at_once_and_asks_nobody(peer: Peer, start: Start) -> None:
    peer.on(LIST_TOOLS, failing(NoWorker("tool"), 0))
    service = await start(peer.port, rate_limit=2)
    for _ in range(2):
        await service.list_tools(ME)
    error = await refused(service)
    assert (error.kind, error.http_status, error.message) == (RATE_LIMIT, 429, "请求过于频繁，请稍后再试")
    assert (peer.count(LIST_TOOLS), service.protection.limited) == (2, 1)


async def test_limiter_counts_a_call_once_however_many_attempts_it_takes(peer: Peer, start: Start) -> None:
    peer.on(LIST_TOOLS, failing(NoWorker("tool"), 3))
    service = await start(peer.port, rate_limit=2, max_retries=4)
    await service.list_tools(ME)
    await service.list_tools(ME)
    assert (peer.count(LIST_TOOLS), service.protection.limited) == (5, 0)


async def test_breaker_counts_attempts_and_then_asks_nobody(peer: Peer, start: Start) -> None:
    peer.on(LIST_TOOLS, failing(NoWorker("tool")))
    service = await start(peer.port, max_retries=3, circuit_max_fails=5)
    await refused(service)
    error = await refused(service)
    assert (error.kind, peer.count(LIST_TOOLS)) == (CIRCUIT_OPEN, 5)
    assert service.protection.breaker.state is State.OPEN


async def test_half_open_breaker_sends_one_probe_while_others_are_refused(peer: Peer, start: Start) -> None:
    release, open_now = asyncio.Event(), [True]

    async def answer(body: bytes, context: Any) -> tool.ListToolsResponse:
        if open_now[0]:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        await release.wait()
        return tool.ListToolsResponse()

    peer.on(LIST_TOOLS, answer)
    service = await start(peer.port, max_retries=1, circuit_max_fails=1, circuit_reset_time=0.01)
    await refused(service)
    breaker = service.protection.breaker
    await eventually(lambda: breaker.state is State.HALF_OPEN)
    open_now[0] = False
    probe = asyncio.create_task(service.list_tools(ME))
    await eventually(lambda: peer.count(LIST_TOOLS) == 2)
    assert (await refused(service)).kind is CIRCUIT_OPEN
    release.set()
    await probe
    assert (breaker.state, peer.count(LIST_TOOLS)) == (State.CLOSED, 2)


async def test_call_that_is_cancelled_is_no_failure(peer: Peer, start: Start) -> None:
    async def silent(body: bytes, context: Any) -> tool.ListToolsResponse:
        await asyncio.Event().wait()
        raise AssertionError

    peer.on(LIST_TOOLS, silent)
    service = await start(peer.port, circuit_max_fails=1)
    task = asyncio.create_task(service.list_tools(ME))
    await eventually(lambda: peer.count(LIST_TOOLS))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.protection.breaker.state is State.CLOSED


async def silent_for_ever(body: bytes, context: Any) -> tool.ListToolsResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_caller_with_little_time_does_not_close_the_door_for_others(peer: Peer, start: Start) -> None:
    """Anybody may say that he waits for two milliseconds only: that this is not enough says nothing about the bridge."""
    peer.on(LIST_TOOLS, silent_for_ever)
    service = await start(peer.port, circuit_max_fails=1, max_retries=1, timeout="300ms")
    for _ in range(3):
        assert (await refused(service, deadline=Deadline.after(0.05))).http_status == 504
    assert service.protection.breaker.failures == 0
    assert (await refused(service)).http_status == 504
    assert service.protection.breaker.state is State.OPEN


async def test_agent_that_is_given_little_time_does_not_close_the_door_for_others(
    peer: Peer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.proxy.service.AGENT_GRACE_SECONDS", -0.9)
    peer.on(EXECUTE_AGENT, silent_for_ever)
    service = await start(peer.port, circuit_max_fails=1, max_retries=1)
    asked = AgentRequest(agent_type="plot", task="写", options=AgentOptions(timeout_seconds=1))
    with pytest.raises(AIProxyError) as error:
        await service.execute_agent(asked, ME)
    assert (error.value.http_status, service.protection.breaker.state) == (504, State.CLOSED)


@pytest.mark.parametrize("code", [Code.DATA_LOSS, Code.INTERNAL, Code.UNAVAILABLE], ids=lambda code: code.name)
async def test_reading_a_failed_call_again_does_not_close_the_door_for_others(
    peer: Peer, start: Start, code: Code
) -> None:
    """Its failure was counted when it failed; and who lies about where he stands is told that the rest is lost."""

    async def ended(body: bytes, context: Any) -> AsyncIterator[ai.AgentStreamChunk]:
        fault = Fault(code, "STREAM_INCOMPLETE", "Part of this stream is lost", "部分内容丢失")
        found = next(one for one in grpc.StatusCode if one.value[0] == code)
        await context.abort(found, fault.message, ((DETAILS_KEY, fault.status),))
        yield ai.AgentStreamChunk()

    async def unknown(body: bytes, context: Any) -> AsyncIterator[ai.ChatStreamChunk]:
        await failing(NotFound("call", "请求", "r"))(body, context)
        yield ai.ChatStreamChunk()

    peer.on(CHAT_STREAM, unknown)
    peer.on(EXECUTE_AGENT_STREAM, ended)
    service = await start(peer.port, circuit_max_fails=1, max_retries=1)
    for _ in range(3):
        with pytest.raises(AIProxyError) as error:
            await anext(service.follow("r", ME, event_id="999999999"))
        assert error.value.status is code
    assert service.protection.breaker.state is State.CLOSED


async def test_attempt_has_the_configured_time_unless_the_caller_has_less(peer: Peer, start: Start) -> None:
    peer.on(LIST_TOOLS, failing(NoWorker("tool"), 0))
    service = await start(peer.port, timeout="20s")
    await service.list_tools(ME)
    await service.list_tools(ME, deadline=Deadline.after(5))
    first, second = (left for method, _, left in peer.calls if method == LIST_TOOLS.path)
    assert first is not None
    assert second is not None
    assert 15 < first <= 20.5
    assert second <= 5.5
    error = await refused(service, deadline=Deadline.after(0))
    assert (error.http_status, error.message, peer.count(LIST_TOOLS)) == (504, "AI服务响应超时", 2)


async def test_agent_that_ends_at_its_own_time_is_still_waited_for(peer: Peer, start: Start) -> None:
    async def answer(body: bytes, context: Any) -> ai.AgentResponse:
        return ai.AgentResponse(status="timeout", output="半章")

    peer.on(EXECUTE_AGENT, answer)
    service = await start(peer.port, timeout="1s")
    options = AgentOptions(timeout_seconds=30)
    response = await service.execute_agent(AgentRequest(agent_type="plot", task="写", options=options), ME)
    assert (response.status, response.output) == ("timeout", "半章")
    [left] = [left for method, _, left in peer.calls if method == EXECUTE_AGENT.path]
    assert left is not None
    assert 30 < left <= 35.5


async def test_timeout_is_tried_again(peer: Peer, start: Start) -> None:
    async def slow_once(body: bytes, context: Any) -> ai.ChatResponse:
        if peer.count(CHAT) == 1:
            await asyncio.Event().wait()
        return ai.ChatResponse()

    peer.on(CHAT, slow_once)
    service = await start(peer.port, timeout="300ms")
    await service.chat(ASKED, ME)
    assert peer.count(CHAT) == 2


async def test_health_passes_by_limiter_and_breaker(peer: Peer, start: Start) -> None:
    async def well(body: bytes, context: Any) -> ai.HealthResponse:
        return ai.HealthResponse(status="healthy")

    peer.on(HEALTH_CHECK, well)
    service = await start(peer.port, rate_limit=1)
    for _ in range(3):
        assert (await service.health()).status == "healthy"
