"""Who leaves a call, comes back to it or is sent on: AIProxyService through a real bridge to workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.proxy.breaker import State
from services.proxy.errors import AIProxyError
from services.proxy.models import (
    AgentRequest,
)
from services.proxy.who import Who
from tests.bridge.conftest import Bridge
from tests.bridge.halting import Halting
from tests.proxy.conftest import ME, Start, agent_worker, asked, heard
from tests.waiting import eventually


async def test_agent_that_is_followed_counts_once_at_the_limiter(
    bridge: Bridge, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether an id is a chat's or an agent's is found out by asking for both."""

    async def work(call: Call, request: ai.AgentRequest) -> AsyncIterator[ai.AgentStreamChunk]:
        yield ai.AgentStreamChunk(delta="写", chunk_type="text")
        yield ai.AgentStreamChunk(chunk_type="text", is_final=True, metadata={"status": "completed"})

    await agent_worker(bridge, work)
    service = await start(bridge.port, max_retries=1)
    begun: list[object] = []
    begin = service.protection.begin

    def counted(*given: Any) -> Any:
        begun.append(given)
        return begin(*given)

    monkeypatch.setattr(service.protection, "begin", counted)
    await heard(service.execute_agent_stream(AgentRequest(agent_type="plot", task="写"), ME, request_id="r1"))
    assert "".join(chunk.delta for chunk in await heard(service.follow("r1", ME))) == "写"
    assert len(begun) == 2


async def test_stopping_the_iteration_stops_the_worker(bridge: Bridge, start: Start) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with aclosing((await start(bridge.port)).chat_stream(asked(), ME)) as chunks:
        async for _ in chunks:
            break
    await eventually(lambda: halting.stopped == 1)


async def test_unary_call_that_is_left_stops_the_worker(bridge: Bridge, start: Start) -> None:
    halting = Halting()
    await bridge.worker(chat=halting.chat)
    service = await start(bridge.port)
    task = asyncio.create_task(service.chat(asked(), ME))
    await eventually(lambda: halting.ran == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: halting.stopped == 1)


async def test_reader_that_may_come_back_is_followed_from_where_it_stands(bridge: Bridge, start: Start) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    first, second = await start(bridge.port), await start(bridge.port)
    async with aclosing(first.chat_stream(asked(), ME, request_id="r1", lingers=True)) as chunks:
        async for chunk in chunks:
            event_id = chunk.event_id
            break
    halting.release.set()
    rest = await heard(second.follow("r1", ME, event_id=event_id))
    assert ("".join(c.delta for c in rest), rest[-1].is_final, halting.ran, halting.stopped) == ("后", True, 1, 0)
    with pytest.raises(AIProxyError) as error:
        await heard(second.follow("r1", Who("u2")))
    assert error.value.http_status == 404


async def test_stream_is_cancelled_by_its_id(bridge: Bridge, start: Start) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    service = await start(bridge.port)
    task = asyncio.create_task(heard(service.chat_stream(asked(), ME, request_id="r1")))
    await eventually(lambda: halting.ran == 1)
    await service.cancel("r1", ME)
    with pytest.raises(AIProxyError) as error:
        await task
    assert (error.value.http_status, error.value.message, halting.stopped) == (499, "请求已取消", 1)


async def test_stream_moves_to_another_bridge_when_its_own_sends_it_away(bridge: Bridge, start: Start) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with bridge.second() as other:
        service = await start(bridge.port, other.port, circuit_max_fails=1)
        task = asyncio.create_task(heard(service.chat_stream(asked(), ME)))
        await eventually(lambda: bridge.edge.open + other.edge.open == 1 and halting.ran == 1)
        async with aclosing(service.chat_stream(asked(), ME)) as mine:
            async for _ in mine:
                break
            here = bridge if bridge.edge.open else other
            await eventually(lambda: len(here.caller.readers) > 0)
            here.edge.leaving.send_away()
            halting.release.set()
            chunks = await task
    assert "".join(c.delta for c in chunks) == "前后"
    assert service.protection.breaker.failures == 0, "a stream that was answered counts once"
    assert service.protection.breaker.state is State.CLOSED


async def test_closing_ends_what_runs_with_an_error(bridge: Bridge, start: Start) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream, chat=halting.chat)
    service = await start(bridge.port)
    tasks = [
        asyncio.create_task(heard(service.chat_stream(asked(), ME))),
        asyncio.create_task(service.chat(asked(), ME)),
    ]
    await eventually(lambda: halting.ran == 2)
    await service.close()
    for task in tasks:
        with pytest.raises(AIProxyError) as error:
            await task
        assert error.value.english == "The connection to the AI service has been closed"
    halting.release.set()
