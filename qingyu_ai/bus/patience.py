"""Asking the broker again: a vote among the servers of a cluster takes up to nine seconds, in which nobody answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .transport_errors import Conflict, PayloadTooLarge, StoreRefused, TransportError

T = TypeVar("T")

AGAIN_SECONDS = 0.1


async def patiently(work: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Do something until it succeeds. It must not matter whether it is done twice.

    Args:
        seconds: after which it is given up.

    Raises:
        Conflict, PayloadTooLarge, StoreRefused because there is no room: at once.
        TransportError: the broker has not done it for so long.
    """
    give_up = time.monotonic() + seconds
    while True:
        try:
            return await work()
        except (Conflict, PayloadTooLarge):
            raise
        except TransportError as e:
            if time.monotonic() > give_up or (isinstance(e, StoreRefused) and e.full):
                raise
        await asyncio.sleep(AGAIN_SECONDS)
