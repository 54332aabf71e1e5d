"""How long to wait before a process that died is started again."""

from __future__ import annotations

from dataclasses import dataclass

IN_A_ROW = 5
"""So many deaths in a row are worth a loud word: this is no accident, something is wrong with the setup."""


@dataclass
class Backoff:
    """Doubles the wait with each death, and forgets the deaths of a process that then stayed alive."""

    first_seconds: float = 0.5
    longest_seconds: float = 15.0
    healthy_after_seconds: float = 30.0
    deaths: int = 0
    """In a row, each sooner than `healthy_after_seconds` after its start."""

    def died(self, alive_seconds: float) -> float:
        """Count a death.

        Args:
            alive_seconds: how long the process lived.

        Returns:
            Seconds to wait before the next start.
        """
        if alive_seconds >= self.healthy_after_seconds:
            self.deaths = 0
        self.deaths += 1
        # The exponent is capped because a float overflows after a thousand doublings, four hours of a broken setup.
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(self.deaths - 1, 30))
