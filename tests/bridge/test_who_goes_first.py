"""Chat goes before agents, and agents before indexing: in the queues, at the bridge's door, and in the room of the broker."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import MIB
from qingyu_ai.settings import Bridge as BridgeSettings
from tests.bridge.conftest import Bridge, chat
from tests.bridge.test_bounds import PIECE, shown
from tests.bus.conftest import FAST
from tests.waiting import eventually


def agent(task: str, user: str = "u1") -> ai.AgentRequest:
    return ai.AgentRequest(agent_type="creative", task=task, user_id=user)


def document(name: str, user: str = "u1") -> rag.IndexRequest:
    return rag.IndexRequest(document_id=name, content="却说那灯亮了。", user_id=user)


class Door:
    """Handlers that hold what comes until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def chat(self, call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        await self.open.wait()
        return ai.ChatResponse()

    async def agent(self, call: Call, request: ai.AgentRequest) -> ai.AgentResponse:
        if call.user != "新来的":
            await self.open.wait()
        return ai.AgentResponse(status="completed")

    async def index(self, call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        await self.open.wait()
        return rag.IndexResponse(document_id=request.document_id, success=True)


async def answers_at_once(call: Call, request: ai.AgentRequest) -> ai.AgentResponse:
    return ai.AgentResponse(status="completed", output="写好了")


def asked(bridge: Bridge, route: routes.Route[Any, Any], requests: list[Any]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(bridge.unary(route)(request, timeout=30)) for request in requests]


async def test_no_chat_waits_behind_agents_and_no_agent_behind_documents(bridge: Bridge) -> None:
    """Each kind has a queue and workers of its own."""
    door = Door()
    await bridge.worker()
    await bridge.worker("agent", agent=door.agent, slots=2)
    await bridge.worker("rag", index=door.index, slots=2)
    waiting = asked(bridge, routes.INDEX_DOCUMENT, [document(f"d{n}") for n in range(100)])
    waiting += asked(bridge, routes.EXECUTE_AGENT, [agent(f"写{n}") for n in range(100)])
    await eventually(lambda: bridge.edge.open == 200)
    await bridge.unary(routes.CHAT)(chat("你好"), timeout=10)
    assert (await bridge.unary(routes.EXECUTE_AGENT)(agent("写", "新来的"), timeout=10)).status == "completed"
    door.open.set()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("bridge_settings", [BridgeSettings(port=0, max_calls=8)])
async def test_bridge_that_fills_refuses_documents_first_then_agents_then_chats(bridge: Bridge) -> None:
    door = Door()
    await bridge.worker(chat=door.chat)
    await bridge.worker("agent", agent=door.agent)
    await bridge.worker("rag", index=door.index)
    calls: list[asyncio.Future[Any]] = []

    async def takes(route: routes.Route[Any, Any], request: Any) -> None:
        calls.extend(asked(bridge, route, [request]))
        await eventually(lambda: bridge.edge.open == len(calls))

    async def refuses(route: routes.Route[Any, Any], request: Any) -> None:
        refusal = await bridge.refused(route, request)
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.fault.retry_seconds is not None

    for n in range(4):
        await takes(routes.INDEX_DOCUMENT, document(f"d{n}"))
    await refuses(routes.INDEX_DOCUMENT, document("d4"))
    for n in range(2):
        await takes(routes.EXECUTE_AGENT, agent(f"写{n}"))
    await refuses(routes.EXECUTE_AGENT, agent("写2"))
    for n in range(2):
        await takes(routes.CHAT, chat(f"问{n}"))
    await refuses(routes.CHAT, chat("问2"))
    door.open.set()
    await asyncio.gather(*calls)


async def fill_queue(bridge: Bridge, share: float, subject: str) -> None:
    """Leave jobs in the queue that nobody takes."""
    while (await bridge.bus.used("AI_JOBS")).bytes <= share * MIB:
        await bridge.bus.store(subject, PIECE, timeout=5)
    await eventually(lambda: shown(bridge, "qingyu_stream_bytes", stream="AI_JOBS") > share * MIB)


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"queue_bytes": MIB})])
async def test_queue_that_fills_refuses_documents_before_agents(bridge: Bridge) -> None:
    await bridge.worker("agent", agent=answers_at_once)
    await fill_queue(bridge, routes.INDEX_DOCUMENT.room, "ai.job.rag.delete")
    assert (await bridge.unary(routes.EXECUTE_AGENT)(agent("写"), timeout=10)).status == "completed"
    await fill_queue(bridge, routes.EXECUTE_AGENT.room, "ai.job.rag.delete")
    refusals = [await bridge.refused(routes.EXECUTE_AGENT, agent("写"))]
    await bridge.bus.drop("AI_JOBS", "ai.job.rag.>", timeout=5)
    await bridge.worker("rag")
    await fill_queue(
        bridge, routes.INDEX_DOCUMENT.room, "ai.job.agent.review"
    )  # malformed: the worker gives it back for a while
    refusals.append(await bridge.refused(routes.INDEX_DOCUMENT, document("d")))
    for refusal in refusals:
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "queue is full for calls of this kind" in refusal.message
        assert refusal.fault.retry_seconds is not None


@pytest.mark.parametrize("bus_settings", [FAST.model_copy(update={"queue_bytes": MIB})])
async def test_batch_waits_for_room_in_the_queue_instead_of_failing(bridge: Bridge) -> None:
    await bridge.worker("rag")
    await fill_queue(bridge, 0.5, "ai.job.agent.execute.plot")

    async def documents() -> Any:
        for n in range(40):
            yield document(f"d{n}").SerializeToString()

    batch: Any = bridge.channel.stream_unary(routes.BATCH_INDEX.path, None, rag.BatchIndexResponse.FromString)
    call = asyncio.ensure_future(batch(documents(), timeout=30))
    await eventually(lambda: bridge.edge.open == 1)
    await asyncio.sleep(0.3)  # nothing is to happen
    assert not call.done()
    await bridge.bus.drop("AI_JOBS", "ai.job.agent.>", timeout=5)
    answer = await call
    assert (answer.total, answer.success_count, list(answer.failed_ids)) == (40, 40, [])
