"""What stands between a caller and the bridge, in this order: limiter, breaker, timeout, retry. One for all methods.

The limiter counts a call once; breaker and timeout count each attempt; the caller's remaining time caps all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from aiolimiter import AsyncLimiter

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.fault import Code
from qingyu_ai.settings import AiProxy

from .breaker import Breaker, Permit
from .errors import RATE_LIMIT, TIMEOUT, UNAVAILABLE, AIProxyError

BACKOFF_FIRST, BACKOFF_LONGEST = 1.0, 30.0
"""Seconds before the second attempt, doubled for each one after."""

JITTER = 0.25
"""Part of a wait by which it may be longer, so that callers who failed together do not come back together."""

RESUME_SECONDS = 0.1
"""At most before a stream that was going on is asked for again: nobody has refused it."""

LIMIT_RETRY_SECONDS = 1.0


class Protection:
    """Guards the calls of one `AIProxyService`."""

    def __init__(self, settings: AiProxy) -> None:
        self._settings = settings
        self._limiter = AsyncLimiter(settings.rate_limit, 1.0)
        self.timeout = settings.timeout
        """Seconds for an attempt, as configured."""
        self.breaker = Breaker(settings.circuit_max_fails, settings.circuit_reset_time)
        self.limited = 0
        """Calls that the limiter refused."""
        self.retries = 0
        """Attempts beyond the first of their calls."""

    async def begin(self, timeout: float | None, deadline: Deadline | None) -> Attempts:
        """Let a call in.

        Args:
            timeout: seconds for each attempt; None: as configured.
            deadline: of the caller; None: none.

        Raises:
            AIProxyError: there are too many a second.
        """
        if not self._limiter.has_capacity():
            self.limited += 1
            raise AIProxyError(RATE_LIMIT, retry_seconds=LIMIT_RETRY_SECONDS)
        await self._limiter.acquire()  # at once: there is room
        return Attempts(self, self._settings.max_retries, timeout or self.timeout, deadline)


class Attempts:
    """The attempts of one call.

    while True:
        try:
            with attempts.one() as (permit, seconds):
                return await ask(seconds)
        except AIProxyError as e:
            await attempts.after(e)
    """

    def __init__(self, protection: Protection, most: int, timeout: float, deadline: Deadline | None) -> None:
        self._protection = protection
        self._most = most
        self._timeout = timeout
        self._deadline = deadline
        self.made = 0
        """Without progress between them."""
        self.retried = 0

    @property
    def remaining(self) -> float:
        """Seconds that the caller has left."""
        return self._deadline.remaining if self._deadline is not None else float("inf")

    def anew(self) -> Attempts:
        """Ask something else for the same call: the limiter has counted it."""
        return Attempts(self._protection, self._most, self._timeout, self._deadline)

    @contextmanager
    def one(self, *, again: bool = False, counts: bool = True) -> Iterator[tuple[Permit, float]]:
        """Make an attempt, with so many seconds. An error that leaves this block is counted, unless the permit is settled.

        Args:
            again: it asks for the rest of a stream, which the breaker does not refuse.
            counts: an error says something of the other side, and not only of this call.

        Raises:
            AIProxyError: there is no time, or the breaker is open.
        """
        seconds = min(self._timeout, self.remaining)
        if seconds <= 0:
            raise AIProxyError(TIMEOUT, retryable=False)
        breaker = self._protection.breaker
        permit = breaker.observe() if again else breaker.permit()
        self.made += 1
        failed: bool | None = None
        try:
            yield permit, seconds
            failed = False
        except AIProxyError as e:
            # Whoever brings less time than is configured must not be able to close the door for everybody; a bridge that is
            # frozen is noticed by keepalive, too.
            hurried = e.status is Code.DEADLINE_EXCEEDED and seconds < self._protection.timeout
            failed = e.trips if counts and not hurried else None
            raise
        finally:
            permit.settle(failed)

    async def after(self, error: AIProxyError, *, progress: bool = False) -> None:
        """Wait until the next attempt.

        Args:
            error: of the last one.
            progress: a stream went on in it before its connection was lost or fell silent, so asking for the rest is no retry.

        Raises:
            AIProxyError: the error, if there is no next attempt.
        """
        lost = error.kind is UNAVAILABLE
        if not (lost or error.kind is TIMEOUT) or not error.retryable or error.status is None:
            raise error
        if progress:
            self.made = 0
        if progress and lost:
            wait = RESUME_SECONDS * random.random()
        else:
            wait = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2.0 ** max(0, self.made - 1)) * (1 + JITTER * random.random())
            wait = max(wait, error.retry_seconds or 0.0)
            if self.made >= self._most:
                raise error
        if wait >= self.remaining:
            raise error
        await asyncio.sleep(wait)
        self.retried += 1
        self._protection.retries += 1
