"""A deadline is a value: a point on the monotonic clock. The tighter of two is `min(a, b)`."""

from __future__ import annotations

import time
from typing import NamedTuple


class Deadline(NamedTuple):
    """The moment after which nobody waits for an answer any more."""

    at: float
    """Seconds on `time.monotonic()`."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Make the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def at_unix_ms(cls, unix_ms: int) -> Deadline:
        """Make a deadline from wall-clock time, as a stored job carries it."""
        return cls(time.monotonic() + unix_ms / 1000 - time.time())

    @property
    def remaining(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether nobody waits any more."""
        return self.remaining <= 0

    def to_unix_ms(self) -> int:
        """The same moment in wall-clock time, unix milliseconds."""
        return int((time.time() + self.remaining) * 1000)
