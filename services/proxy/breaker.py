"""A circuit breaker that knows what a result was permitted for (decision 0014 says why it is ours)."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from .errors import CIRCUIT_OPEN, AIProxyError

PROBE_SECONDS = 1.0
"""What a caller is told to wait while somebody else tries."""


class State(Enum):
    """Where a breaker stands; the values are those of its gauge."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens after failures in a row, rests, then lets exactly one attempt through to see.

    Args:
        max_fails: failures in a row that open it.
        reset_seconds: how long it rests.
        clock: seconds that only grow.
    """

    def __init__(self, max_fails: int, reset_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_fails = max_fails
        self._reset_seconds = reset_seconds
        self._clock = clock
        self._opened_at: float | None = None
        self._probing = False
        self.failures = 0
        """In a row."""
        self.turn = 0
        """Counts changes of state: a result that was permitted before one says nothing after it."""

    def __repr__(self) -> str:
        return f"<Breaker {self.state.name.lower()}, {self.failures} failures in a row>"

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self._rest > 0 else State.HALF_OPEN

    @property
    def _rest(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._reset_seconds - self._clock()

    def permit(self) -> Permit:
        """Let an attempt through.

        Raises:
            AIProxyError: not now; it says when.
        """
        match self.state:
            case State.OPEN:
                raise AIProxyError(CIRCUIT_OPEN, retry_seconds=round(self._rest, 3))
            case State.HALF_OPEN if self._probing:
                raise AIProxyError(CIRCUIT_OPEN, retry_seconds=PROBE_SECONDS)
            case State.HALF_OPEN:
                self._probing = True
                return Permit(self, self.turn, probe=True)
            case _:
                return Permit(self, self.turn, probe=False)

    def observe(self) -> Permit:
        """Count an attempt that nobody may refuse: a stream that is asked for again is no new load."""
        return Permit(self, self.turn, probe=False)

    def settle(self, permit: Permit, failed: bool | None) -> None:
        """Take a result; None is none."""
        if permit.turn != self.turn:
            return
        if permit.probe:
            self._probing = False
        if failed is None:
            return
        if not failed:
            self.failures = 0
            if permit.probe:
                self._change(None)
            return
        self.failures += 1
        if permit.probe or self.failures >= self._max_fails:
            self._change(self._clock())

    def _change(self, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self.turn += 1


class Permit:
    """One attempt. Its result counts once, the first that is told; leaving without one counts as nothing."""

    def __init__(self, breaker: Breaker, turn: int, *, probe: bool) -> None:
        self._breaker = breaker
        self._open = True
        self.turn = turn
        self.probe = probe

    def settle(self, failed: bool | None) -> None:
        """Tell the result; None: it was cancelled."""
        if self._open:
            self._open = False
            self._breaker.settle(self, failed)
