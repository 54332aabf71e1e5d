"""Who gets the free slots of a worker, so that one user's hundred jobs do not stand before another's first. Pure: it decides.

A queue is first come, first served, and nobody can see what waits in it. So a worker looks at each job as it comes, and puts
back those of users that have enough, which lets it see what is behind them:

- the last free slot is for a user who has none here;
- the others go to whom they are offered, unless another user waits who has fewer.

A user who is alone has all slots but one; users who want more than there is come to have equally many; and a user who comes with
a first job waits for no more than one job to end, however many of others were there before. With one slot it is first come, first
served.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict

LOOKS_PER_SECOND = 200.0
"""At the jobs of one user that wait, at one worker: the more there are, the longer until each of them is offered again."""

SOONEST_SECONDS = 0.1
LATEST_SECONDS = 5.0
"""Until a job that was put back is offered again."""

FORGIVEN_SECONDS = 1.0
"""By which a job that waits may be late before it no longer counts: another worker has it, or it is over."""


class Shares:
    """The slots of one worker, by user. Calls without a user are those of one.

    Args:
        slots: jobs that run at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: Counter[str] = Counter()
        self._waiting: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """By user and call: when the job is to be offered again, `time.monotonic()`."""
        self.put_back = 0
        """How often a job was, since the start."""

    def __repr__(self) -> str:
        return f"<Shares {sum(self._held.values())} of {self._slots} slots, {len(self._waiting)} users wait>"

    def may_begin(self, user: str) -> bool:
        """Whether a job that is offered now is to be taken."""
        held, now = self._held[user], time.monotonic()
        if not held:
            return True
        if self._slots - self._held.total() <= 1:
            return False
        return not any(other != user and self._held[other] < held for other in self._who_waits(now))

    def begin(self, user: str, call: str) -> None:
        """A job is taken."""
        self._held[user] += 1
        self._forget(user, call)

    def end(self, user: str) -> None:
        """A job is over."""
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]

    def wait(self, user: str, call: str) -> float:
        """A job is put back.

        Returns:
            Seconds until it is to be offered again.
        """
        self.put_back += 1
        waiting = self._waiting[user]
        waiting.pop(call, None)  # it goes to the end
        seconds = min(LATEST_SECONDS, max(SOONEST_SECONDS, (len(waiting) + 1) / LOOKS_PER_SECOND))
        waiting[call] = time.monotonic() + seconds
        return seconds

    def _who_waits(self, now: float) -> list[str]:
        for user, calls in list(self._waiting.items()):
            while calls:
                call = next(iter(calls))  # that was put back first
                if calls[call] + FORGIVEN_SECONDS >= now:
                    break
                self._forget(user, call)
        return list(self._waiting)

    def _forget(self, user: str, call: str) -> None:
        calls = self._waiting.get(user)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self._waiting[user]
