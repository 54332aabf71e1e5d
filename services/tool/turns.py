"""Who gets the next free place, where more calls come than there are places: users take turns, each with the call that waits
longest. One user's hundred calls so stand before no more than one call of each other user."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class NoTurn(Exception):
    """No place was free in time."""


class Turns:
    """A number of places. Calls without a user are those of one.

    Args:
        places: that may be taken at once.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By user, whose turn it is first: the calls that wait, the oldest first."""

    def __repr__(self) -> str:
        return f"<Turns: {self._free} free, {self.waiting} calls of {len(self._waiting)} users wait>"

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(map(len, self._waiting.values()))

    @contextlib.asynccontextmanager
    async def place(self, user: str, seconds: float) -> AsyncIterator[None]:
        """Hold a place.

        Args:
            seconds: how long to wait for it.

        Raises:
            NoTurn: none was free in time.
        """
        await self._take(user, seconds)
        try:
            yield
        finally:
            self._give()

    async def _take(self, user: str, seconds: float) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as e:
            if turn.cancelled():
                self._forget(user, turn)
            else:
                self._give()  # the place came in the moment in which nobody wanted it any more
            if isinstance(e, TimeoutError):
                raise NoTurn from None
            raise

    def _give(self) -> None:
        while self._waiting:
            user, calls = next(iter(self._waiting.items()))
            del self._waiting[user]
            turn = calls.popleft()
            if calls:
                self._waiting[user] = calls  # behind everybody else
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, user: str, turn: asyncio.Future[None]) -> None:
        calls = self._waiting.get(user)
        if calls is not None and turn in calls:
            calls.remove(turn)
            if not calls:
                del self._waiting[user]
