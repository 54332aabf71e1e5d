"""Wait for something to become true, without a sleep that is either too short or too long."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

EVERY_SECONDS = 0.02


async def eventually(condition: Callable[[], object | Awaitable[object]], timeout: float = 10.0) -> None:
    """Return as soon as the condition holds; the loop runs on meanwhile.

    Raises:
        AssertionError: it did not hold within `timeout` seconds. The message is what the condition's source says.
    """
    end = time.monotonic() + timeout
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        if time.monotonic() >= end:
            raise AssertionError(_too_late(condition, timeout))
        await asyncio.sleep(EVERY_SECONDS)


def eventually_sync(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait for the condition in a test without a loop.

    Raises:
        AssertionError: as `eventually`.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(_too_late(condition, timeout))
        time.sleep(EVERY_SECONDS)


def _too_late(condition: Callable[[], object], timeout: float) -> str:
    try:
        source = " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        source = repr(condition)
    return f"not within {timeout:g} s: {source}"
