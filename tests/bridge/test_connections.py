"""How old a caller's connection gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.settings import Bridge as BridgeSettings
from tests.bridge.conftest import Bridge, chat

AGE = 0.5
DELTAS = 80

AGEING = BridgeSettings(port=0, expected_workers=("chat",), connection_age_seconds=AGE)


@pytest.mark.parametrize("bridge_settings", [AGEING])
async def test_callers_are_sent_to_new_connections_and_notice_nothing(bridge: Bridge) -> None:
    """A stream of four seconds ends on the connection that it began on, and calls are made all the while."""
    await bridge.worker()
    states: list[grpc.ChannelConnectivity] = []

    async def watch() -> None:
        while True:
            states.append(bridge.channel.get_state())
            await bridge.channel.wait_for_state_change(states[-1])

    watching = asyncio.create_task(watch())
    try:
        stream = bridge.streaming(routes.CHAT_STREAM)(
            chat("长", context={"deltas": str(DELTAS), "per_second": "20"}), timeout=60
        )
        text = asyncio.create_task(_text(stream))
        while states.count(grpc.ChannelConnectivity.IDLE) < 3:
            await bridge.unary(routes.CHAT)(chat("短"), timeout=10)
        assert not text.done(), "the connections were not given up while the stream went on"
        assert await text == "长" * DELTAS
    finally:
        watching.cancel()


async def _text(stream: AsyncIterable[ai.ChatStreamChunk]) -> str:
    return "".join([chunk.delta async for chunk in stream])
