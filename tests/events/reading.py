"""Events that a test stores, and what it reads of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.subjects import project_token
from qingyu_ai.contract import events_pb2
from qingyu_ai.events import Event, Subscription, cloudevents

numbers = itertools.count(1)


async def tell(bus: NatsBus, *, service: str = "chat", project: str = "", count: int = 1) -> list[int]:
    """Store so many events.

    Returns:
        Their sequences.
    """
    return [
        await put(bus, f"ai.events.v1.{service}.started.{project_token(project)}", f"e{next(numbers)}")
        for _ in range(count)
    ]


async def put(bus: NatsBus, subject: str, id: str, type: str = "qingyu.ai.events.v1.CallStarted") -> int:
    data = events_pb2.CallStarted(worker=id).SerializeToString()
    headers = cloudevents.encode(id, "/s", type, 1_700_000_000_000, "c", "", unique=False)
    return await bus.store(subject, data, headers=headers, timeout=2)


async def take(subscription: Subscription, count: int) -> list[Event]:
    """Read so many events to their end."""
    found: list[Event] = []
    async with asyncio.timeout(15), contextlib.AsyncExitStack() as stack:
        if subscription._bus is None:
            await stack.enter_async_context(subscription)
        async for event in subscription:
            found.append(event)
            if len(found) == count:
                # It is acknowledged when the loop asks for another, which may never come.
                current = subscription._current
                assert current is not None
                current.ack()
                subscription._current = None
                break
    return found


def sequences(found: list[Event]) -> list[int]:
    return [event.sequence for event in found]


async def read_all(subscription: Subscription) -> list[int]:
    """The sequences of one that ends by itself."""
    async with asyncio.timeout(20), subscription:
        return [event.sequence async for event in subscription]
