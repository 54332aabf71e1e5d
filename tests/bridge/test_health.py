"""HealthCheck, grpc.health.v1, reflection, readiness and metrics say what is there now."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import generate_latest

from qingyu_ai import routes
from qingyu_ai.bus.gauge import OUTDATED
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bridge.conftest import Bridge, chat
from tests.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(bridge: Bridge) -> ai.HealthResponse:
    reply = await bridge.unary(routes.HEALTH_CHECK)(ai.HealthRequest(), timeout=5)
    assert isinstance(reply, ai.HealthResponse)
    return reply


async def test_health_is_unhealthy_until_every_expected_worker_answers(bridge: Bridge) -> None:
    before = await check(bridge)
    assert before.status == "unhealthy"
    assert before.details["worker.chat"] == "none running"
    first = await bridge.worker()
    await bridge.worker()
    now = await check(bridge)
    assert now.status == "healthy"
    assert now.details["worker.chat"] == "2 running"
    assert now.details["bus"] == "connected"
    assert {"model", "store"} <= set(now.details)
    await first.drain(1)
    await eventually(lambda: bridge.presence.counts() == {"chat": 1})
    assert (await check(bridge)).details["worker.chat"] == "1 running"


async def test_health_shows_what_each_worker_says_of_its_store_now(bridge: Bridge) -> None:
    assert (await check(bridge)).details["store"] == "none in use"
    first, second = await bridge.worker(), await bridge.worker()
    for worker in (first, second):
        worker.tell("store", "PostgreSQL 16.2")
    assert (await check(bridge)).details["store"] == "PostgreSQL 16.2"
    second.tell("store", "PostgreSQL: no connection within 5 s")
    assert (await check(bridge)).details["store"] == "PostgreSQL 16.2, PostgreSQL: no connection within 5 s"


async def serving(bridge: Bridge, service: str) -> int:
    method = bridge.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    reply: health_pb2.HealthCheckResponse = await method(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return reply.status


async def test_grpc_health_is_told_for_each_service(bridge: Bridge) -> None:
    async def is_serving(service: str, wanted: int) -> bool:
        return await serving(bridge, service) == wanted

    await eventually(lambda: is_serving("", SERVING))
    assert await serving(bridge, routes.AGENT_SERVICE) == NOT_SERVING
    await bridge.worker()
    await eventually(lambda: is_serving(routes.AGENT_SERVICE, SERVING))
    assert await serving(bridge, routes.RAG_SERVICE) == NOT_SERVING
    await bridge.health.drain()
    assert await serving(bridge, "") == NOT_SERVING
    assert bridge.health.unready() == "draining"


async def test_reflection_lists_the_contract(bridge: Bridge) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(bridge.channel)  # type: ignore[arg-type]  # an aio channel will do
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for reply in call:
        names = {s.name for s in reply.list_services_response.service}
        assert set(routes.services()) <= names
        break
    call.cancel()


async def test_metrics_count_calls_codes_and_merged_deltas(bridge: Bridge) -> None:
    await bridge.worker()
    await bridge.unary(routes.CHAT)(chat("x"), timeout=5)
    await bridge.refused(routes.CHAT, ai.ChatRequest())
    request = chat("字", context={"deltas": "200"})
    chunks = [c async for c in bridge.streaming(routes.CHAT_STREAM)(request, timeout=10)]
    await eventually(lambda: bridge.edge.open == 0)
    value = bridge.registry.get_sample_value
    assert value("qingyu_bridge_calls_total", {"method": "Chat", "code": "OK"}) == 1
    assert value("qingyu_bridge_calls_total", {"method": "Chat", "code": "INVALID_ARGUMENT"}) == 1
    assert value("qingyu_bridge_deltas_total", {"method": "ChatStream"}) == 201
    assert value("qingyu_bridge_chunks_total", {"method": "ChatStream"}) == len(chunks)
    assert value("qingyu_bridge_open_calls", {"method": "Chat"}) == 0
    assert b"qingyu_bridge_first_chunk_seconds_count" in generate_latest(bridge.registry)


async def test_status_texts_are_not_an_oracle_of_our_insides(bridge: Bridge) -> None:
    refusal = await bridge.refused(routes.CHAT, b"\xff")
    assert "DecodeError" not in refusal.message
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_metrics_show_what_waits_for_each_kind_of_worker(bridge: Bridge) -> None:
    """Also jobs that only their queue knows of; and nothing where nothing is known."""
    await bridge.bus.store("ai.job.agent.execute.plot", b"no worker takes it", timeout=2)

    def shown(name: str, queue: str) -> float | None:
        return bridge.registry.get_sample_value(f"qingyu_queue_{name}", {"queue": queue})

    await eventually(lambda: shown("waiting", "agent") == 1)
    assert shown("claimed", "agent") == shown("waiting", "chat") == 0
    gauge = bridge.caller.readers.gauge
    gauge._backlogs = {kind: (backlog, at - OUTDATED) for kind, (backlog, at) in gauge._backlogs.items()}
    assert str(shown("waiting", "agent")) == "nan"
