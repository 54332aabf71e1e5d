"""The moment in which a bridge stops taking calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from bridge import server
from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bridge.conftest import Bridge

BURST = 100


def health_check(bridge: Bridge) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return bridge.channel.unary_unary(routes.HEALTH_CHECK.path)


async def codes_of_a_burst(bridge: Bridge, stop: Callable[[], Awaitable[None]]) -> set[grpc.StatusCode]:
    """Of calls of which the first has been taken when the order to stop comes."""
    await ready(bridge)
    before = bridge.edge.arrived
    call = health_check(bridge)
    calls = [call(ai.HealthRequest().SerializeToString(), timeout=10) for _ in range(BURST)]
    while bridge.edge.arrived == before:  # noqa: ASYNC110  # the very turn, which an event would miss
        await asyncio.sleep(0)
    await stop()
    return {await each.code() for each in calls}


async def ready(bridge: Bridge) -> None:
    await health_check(bridge)(ai.HealthRequest().SerializeToString(), timeout=10)


async def test_burst_that_comes_as_the_bridge_stops_is_answered(bridge: Bridge) -> None:
    async def as_the_bridge_does() -> None:
        await server.quiet(bridge.edge)
        await bridge.server.stop(5.0)

    codes = await codes_of_a_burst(bridge, as_the_bridge_does)
    assert codes == {grpc.StatusCode.OK}


async def test_grpc_alone_cancels_such_a_burst(bridge: Bridge) -> None:
    """Why the bridge waits. When this fails, gRPC has mended it, and the wait can go."""
    codes = await codes_of_a_burst(bridge, lambda: bridge.server.stop(5.0))
    assert grpc.StatusCode.CANCELLED in codes


async def test_bridge_that_is_called_all_the_time_does_not_wait_for_ever(bridge: Bridge) -> None:
    waits = asyncio.create_task(server.quiet(bridge.edge))
    while not waits.done():
        await ready(bridge)
