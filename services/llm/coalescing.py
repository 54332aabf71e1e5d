"""Reading many sockets without being woken for each: what network cards call interrupt coalescing.

Fifty streams of fifty tokens a second are 2,500 wake-ups a second here, and as many messages alone in their packets after
that. So while many sockets are read, the loop looks at all of them at most once a beat: a token waits half a beat on average,
which nobody sees, and what came together goes on together, through the worker, the server and the bridge. docs/agents.md has
what it saves.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from typing import Final

CROWD: Final = 16
"""From so many sockets on. Fewer are told of at once."""

BEAT_SECONDS: Final = 0.010
"""Between two looks at a crowd."""


class Readable:
    """Tells which of its sockets can be read.

    Args:
        ready: told the file descriptor of each; it may add and remove sockets.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ready: Callable[[int], None]) -> None:
        self._loop = loop
        self._ready = ready
        self._sockets: set[int] = set()
        self._epoll = select.epoll()
        self._beat: asyncio.TimerHandle | None = None
        loop.add_reader(self._epoll.fileno(), self._look)

    def add(self, fd: int) -> None:
        """Watch a socket, until `remove`."""
        self._sockets.add(fd)
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Watch it no longer. It may be closed already."""
        self._sockets.discard(fd)
        with contextlib.suppress(OSError):  # the kernel forgets a socket that is closed
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._beat is None:
            self._loop.remove_reader(self._epoll.fileno())
        else:
            self._beat.cancel()
        self._epoll.close()

    def _look(self) -> None:
        found = self._epoll.poll(0)
        crowd = len(self._sockets) >= CROWD and bool(found)
        if crowd and self._beat is None:
            self._loop.remove_reader(self._epoll.fileno())
        elif not crowd and self._beat is not None:
            self._loop.add_reader(self._epoll.fileno(), self._look)
        self._beat = self._loop.call_later(BEAT_SECONDS, self._look) if crowd else None
        for fd, _ in found:
            if fd in self._sockets:
                self._ready(fd)
