"""Who may use a connection next. A pool that is used up is not a database that is down: calls wait, until their deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired, Fault, Overloaded


class Room:
    """So many at once; the others wait in the order in which they came.

    Args:
        size: that may be in it.
        waiting: that may wait for it.
    """

    def __init__(self, size: int, waiting: int) -> None:
        self._size = size
        self._most = waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self.used = 0
        """Turns that are taken."""

    def __repr__(self) -> str:
        return f"<Room {self.used} of {self._size} taken, {self.waiting} of at most {self._most} waiting>"

    @property
    def waiting(self) -> int:
        """Calls that wait for a turn."""
        return sum(not one.done() for one in self._queue)

    @asynccontextmanager
    async def turn(self, deadline: Deadline) -> AsyncIterator[None]:
        """Have a turn.

        Raises:
            Overloaded: too many wait already.
            Expired: the deadline came first.
            Fault: what `dismiss` said.
        """
        if self.used < self._size:
            self.used += 1
        else:
            await self._wait(deadline)
        try:
            yield
        finally:
            self._pass_on()

    def dismiss(self, fault: Callable[[], Fault]) -> None:
        """Tell all who wait that waiting does not help.

        Args:
            fault: makes what each is told.
        """
        while self._queue:
            one = self._queue.popleft()
            if not one.done():
                one.set_exception(fault())

    async def _wait(self, deadline: Deadline) -> None:
        if self.waiting >= self._most:
            raise Overloaded("Too many calls wait for the store of documents", "等待文档库的请求过多", self._most)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(mine)
        try:
            async with asyncio.timeout(max(0.0, deadline.remaining)):
                await mine
        except TimeoutError:
            self._leave(mine)
            raise Expired from None
        except asyncio.CancelledError:
            self._leave(mine)
            raise

    def _leave(self, mine: asyncio.Future[None]) -> None:
        """A turn that was given at the moment in which nobody wanted it any more goes to the next."""
        if mine.done() and not mine.cancelled() and mine.exception() is None:
            self._pass_on()
        elif mine in self._queue:
            self._queue.remove(mine)

    def _pass_on(self) -> None:
        """The turn of who leaves is the next one's."""
        while self._queue:
            one = self._queue.popleft()
            if not one.done():
                one.set_result(None)
                return
        self.used -= 1
