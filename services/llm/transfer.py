"""One HTTP exchange as its reader sees it: a status, headers, and a body in pieces, each waited for until a given time.

libcurl fills it (`curl`), from callbacks that must not wait; what nobody has read is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

import pycurl

HELD_BYTES: Final = 256 * 1024
"""What a body may hold that nobody has read; then the transfer pauses, and TCP makes the sender wait."""

TICK: Final = 0.002
"""Seconds by which a timer may be early or late."""


class Failure(Enum):
    """Why a transfer failed, as far as that makes a difference."""

    CONNECT = "there is no connection"
    CONNECT_TIMEOUT = "no connection in time"
    TLS = "TLS was refused, by us or by them"
    CUT = "the connection was lost"
    OTHER = "something else"


class TransferError(Exception):
    """A transfer ended otherwise than by its end. The text is libcurl's, for the log."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


class Transfer:
    """One request and its answer. `close` ends it at any time; the socket of an unfinished one is closed with it.

    Args:
        loop: on which it is read.
        resume: has a paused body go on.
        drop: ends the transfer, if it has not ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, resume: Callable[[], None], drop: Callable[[], None]) -> None:
        self._loop = loop
        self._resume = resume
        self._drop = drop
        self._closed = False
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case."""
        self._begun = False
        self._done = False
        self._error: TransferError | None = None
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Transfer status {self.status}, {self._held_bytes} bytes held, {'done' if self._done else 'open'}>"

    async def head(self, until: float) -> None:
        """Wait for the status and the headers.

        Args:
            until: on `time.monotonic()`.

        Raises:
            TimeoutError: they do not come in time.
            TransferError: they do not come.
        """
        while not self._begun and not self._done:
            await self._wait(until)
        if self._error is not None and not self._begun:
            raise self._error

    async def read(self, until: float) -> bytes:
        """Wait for a piece of the body, of any size.

        Args:
            until: on `time.monotonic()`.

        Returns:
            All that has arrived; empty at the end.

        Raises:
            TimeoutError: nothing arrives in time.
            TransferError: the body was cut; what arrived before has been read.
        """
        while not self._held and not self._done:
            await self._wait(until)
        if self._held:
            data = self._held.popleft() if len(self._held) == 1 else b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            if self._paused and not self._closed:
                self._paused = False
                self._resume()
            return data
        if self._error is not None:
            raise self._error
        return b""

    def close(self) -> None:
        """End it now. A connection whose answer was read to its end is kept for the next request."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._closed:
            self._closed = True
            self._drop()

    async def _wait(self, until: float) -> None:
        self._until = until
        if self._alarm is None or self._alarm.when() > until + TICK:
            self._set_alarm()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_alarm(self) -> None:
        """One timer for many reads: it is moved when it goes off too early, not at each token."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(max(0.0, self._until - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._until > time.monotonic() + TICK:
            self._set_alarm()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by libcurl.

    def on_header(self, line: bytes) -> None:
        """A line of the head: of an answer, or of an interim one before it (100, proxies)."""
        if self._begun:
            return  # a trailer
        text = line.decode("latin-1").rstrip("\r\n")
        if text.startswith("HTTP/"):
            _, _, rest = text.partition(" ")
            self.status = int(rest[:3]) if rest[:3].isdecimal() else 0  # an exception here would only be printed
            self.headers.clear()
        elif text:
            name, _, value = text.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        elif self.status >= 200:
            self._begun = True
            self._wake()

    def on_body(self, data: bytes) -> int | None:
        """A piece of the body."""
        if self._held_bytes >= HELD_BYTES:
            self._paused = True
            return int(pycurl.WRITEFUNC_PAUSE)  # it comes again
        self._held.append(data)
        self._held_bytes += len(data)
        self._wake()
        return None

    def on_done(self, error: TransferError | None) -> None:
        """Nothing more comes."""
        self._done = True
        self._paused = False
        self._error = error
        self._wake()
