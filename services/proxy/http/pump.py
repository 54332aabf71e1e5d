"""Between a stream and the socket that it is written to: at most 100 chunks wait, then the stream does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.proxy.models import StreamChunk

MOST_CHUNKS = 100


class Pump:
    """Reads a stream ahead of a socket. Leaving it closes the stream.

    Args:
        chunks: the stream.
        request_id: its call's.
    """

    def __init__(self, chunks: AsyncGenerator[StreamChunk, None], request_id: str = "") -> None:
        self._chunks = chunks
        self._request_id = request_id
        self._last: StreamChunk | None = None
        self._held: deque[StreamChunk] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._error: BaseException | None = None
        self.over = False
        """The stream has ended, and all of it has been taken."""
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pump:
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    @property
    def waiting(self) -> int:
        """Chunks that nobody has taken yet."""
        return len(self._held)

    async def _run(self) -> None:
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    self._held.append(chunk)
                    self._news.set()
                    while len(self._held) >= MOST_CHUNKS:
                        self._room.clear()
                        await self._room.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as e:  # whoever takes is told
            self._error = e
        self._ended = True
        self._news.set()

    async def take(self, seconds: float) -> list[StreamChunk]:
        """Take all that waits.

        Args:
            seconds: to wait for something.

        Returns:
            The chunks; none: there was silence, or the stream is over.

        Raises:
            AIProxyError: the stream broke, or its last chunk says that its agent failed; all that came before has been taken.
        """
        if not self._held and not self._ended:
            self._news.clear()
            # A timer that wakes costs a quarter of `asyncio.timeout`, and this is done for each chunk.
            timer = asyncio.get_running_loop().call_later(seconds, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()
        taken = list(self._held)
        self._held.clear()
        self._room.set()
        if taken:
            self._last = taken[-1]
        elif self._ended:
            error = self._error
            if error is None and self._last is not None:
                error = self._last.failure(self._request_id)
            if error is not None:
                raise error
            self.over = True
        return taken
