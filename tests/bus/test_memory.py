"""The in-memory broker, where it must be as a real one is."""

from __future__ import annotations

import asyncio

import pytest

from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.settings import Bus as BusSettings


@pytest.mark.parametrize("turns", range(4))
async def test_whoever_is_cancelled_while_an_answer_arrives_ends(turns: int) -> None:
    bus = MemoryBus(Broker(BusSettings()))

    async def ask_for_ever() -> None:
        while True:
            await bus.store("ai.events.v1.chat.accepted.none", b"", timeout=5)

    asking = asyncio.create_task(ask_for_ever())
    for _ in range(1 + turns):
        await asyncio.sleep(0)
    asking.cancel()
    done, _ = await asyncio.wait([asking], timeout=5)
    assert done
    assert asking.cancelled()
