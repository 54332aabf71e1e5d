"""Jobs over which workers were lost run alone, so that they end nobody but themselves.

They wait until what runs at their worker is over, one behind the other, and meanwhile the worker takes no other jobs. Neither the
waiting nor the being alone lasts longer than a lease: calls of one session take turns, so one that runs may wait for a suspect
that waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class Suspect(Protocol):
    """A job that is to run alone."""

    async def no_longer_alone(self) -> None:
        """Others may run beside it from now on: if its worker is lost, nobody knows over which of them."""


class Suspects:
    """The suspects of one worker.

    Args:
        lease_seconds: for which one waits to be alone, and for which it is.
        running: how many jobs there are at the worker, with those that wait here.
    """

    def __init__(self, lease_seconds: float, running: Callable[[], int]) -> None:
        self._lease_seconds = lease_seconds
        self._running = running
        self._waiting: list[Suspect] = []
        self._alone: Suspect | None = None
        self._since = 0.0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Suspects {len(self._waiting)} wait, {'one is' if self._alone else 'none is'} alone>"

    def __len__(self) -> int:
        return len(self._waiting) + (self._alone is not None)

    async def alone(self, suspect: Suspect) -> bool:
        """Wait until nothing else runs here.

        Returns:
            Whether that is so. Not: it has waited for long enough, and may begin beside what runs.
        """
        if self._alone is suspect:
            return True  # it was faster than somebody else who wrote its record, and tries again
        self._waiting.append(suspect)
        self.changed()
        try:
            async with asyncio.timeout(self._lease_seconds), self._changed:
                await self._changed.wait_for(lambda: self._may_begin(suspect))
            self._alone, self._since = suspect, time.monotonic()
            return True
        except TimeoutError:
            await self._open()
            return False
        finally:
            self._waiting.remove(suspect)

    def _may_begin(self, suspect: Suspect) -> bool:
        # Those that wait behind it have not begun.
        return self._alone is None and self._waiting[0] is suspect and self._running() == len(self._waiting)

    def tick(self, now: float) -> None:
        """Let others in beside one that has been alone for a lease without ending its worker.

        Args:
            now: `time.monotonic()`.
        """
        if self._alone is not None and now - self._since > self._lease_seconds:
            self._spawn(self._open())

    async def _open(self) -> None:
        suspect, self._alone = self._alone, None
        if suspect is not None:
            await suspect.no_longer_alone()

    def over(self, suspect: Suspect) -> None:
        """A job is over, whether it was a suspect or not."""
        if self._alone is suspect:
            self._alone = None
        if self._waiting:
            self.changed()

    def changed(self) -> None:
        """Have those who wait look again."""
        self._spawn(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
