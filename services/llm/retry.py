"""Asks one server again while that may help: for what comes whole, and for a stream up to its first token."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from qingyu_ai.bus.deadline import Deadline

from .faults import UpstreamFault
from .meters import Meters
from .server import Server

log = structlog.get_logger(__name__)

T = TypeVar("T")

BACKOFF_FIRST, BACKOFF_LONGEST = 0.25, 8.0
"""Seconds before the second request, doubled for each one after; half of it is left to chance. A server that wants to be left
alone for longer is not waited for: another model, or the caller, knows better what to do with that time."""


async def asked_again(
    server: Server,
    ask: Callable[[], Awaitable[T]],
    deadline: Deadline,
    meters: Meters,
    may_again: Callable[[], bool] = lambda: True,
) -> T:
    """Ask, at most `attempts` times in all.

    Args:
        may_again: whether whoever pays for it allows one more.

    Raises:
        UpstreamFault: the last failure.
        Fault: the caller's time is over.
    """
    attempts = server.settings.attempts
    attempt = 1
    while True:
        try:
            with server.breaker.attempt(server.alias):
                return await ask()
        except UpstreamFault as e:
            meters.errors.labels(server.alias, e.reason).inc()
            wait = max(_backoff(attempt), e.asked_seconds or 0.0)
            if attempt == attempts or not may_again():
                raise
            if not e.kind.value.here or wait > min(BACKOFF_LONGEST, deadline.remaining):
                raise
        attempt += 1
        meters.retries.labels(server.alias).inc()
        log.info("model_asked_again", model=server.alias, attempt=attempt, wait_seconds=round(wait, 2))
        await asyncio.sleep(wait)


def _backoff(attempt: int) -> float:
    backoff = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2.0 ** (attempt - 1))
    return backoff * (0.5 + random.random() / 2)
