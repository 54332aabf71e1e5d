"""Writes lines to somebody who may stop reading for as long as they like: a pager, a stopped terminal, a slow program."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import select
import threading

LAST_SECONDS = 0.5
"""For which the line that is being written is waited for in the end."""


class NotWritten(Exception):
    """A line could not be written. The message says why, in English and Chinese."""


class LineWriter:
    """Writes from a thread of its own, so that whoever writes goes on with its connection meanwhile, and can be stopped.

    Args:
        descriptor: of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self.gone = False
        """Whether the reader has ended."""
        self._descriptor = descriptor
        # What a pipe whose reader has ended answers, and a terminal that was closed; of a file, EIO is a disk that fails.
        self._gone = (errno.EPIPE, errno.EIO) if os.isatty(descriptor) else (errno.EPIPE,)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._written: asyncio.Future[None] = self._loop.create_future()
        self._written.set_result(None)
        threading.Thread(target=self._write_all, name="lines", daemon=True).start()

    async def write(self, line: bytes) -> None:
        """Write a line, with its end. Return when it is out, or nobody reads.

        Raises:
            NotWritten: the disk is full, or the like.
        """
        if self.gone:
            return
        self._written = self._loop.create_future()
        self._lines.put(line)
        await asyncio.shield(self._written)

    async def close(self) -> None:
        """Let the line that is being written come to its end, but do not wait for a reader that takes none."""
        await asyncio.wait([self._written], timeout=LAST_SECONDS)

    def _write_all(self) -> None:
        while True:
            line, why = self._lines.get(), None
            try:
                while line:
                    line = line[self._write_some(line) :]
            except OSError as e:
                why = e
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._settle, why)

    def _write_some(self, line: bytes) -> int:
        while True:
            try:
                return os.write(self._descriptor, line)
            except BlockingIOError:  # somebody who shares the pipe or terminal has made it so
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()

    def _settle(self, why: OSError | None) -> None:
        if why is None or why.errno in self._gone:
            self.gone = self.gone or why is not None
            self._written.set_result(None)
        else:
            self._written.set_exception(NotWritten(f"the output cannot be written: {why.strerror}。无法写出结果"))
