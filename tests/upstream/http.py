"""What every scripted server here knows of HTTP/1.1, and how long it lives."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from dataclasses import dataclass
from typing import Any, cast

PARENT_SECONDS = 1.0
"""Between two looks at whether the parent is still there."""


class BrokenRequest(Exception):
    """These bytes are no request that this server reads."""


@dataclass(slots=True)
class Request:
    """A request that has arrived whole."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes

    def json(self) -> Any:
        """Its body; None: there is none, or it is not JSON."""
        try:
            return json.loads(self.data) if self.data else None
        except ValueError:
            return None


def read_request(buffer: bytearray) -> Request | None:
    """Take the first request out of the buffer; None: it has not arrived yet.

    Raises:
        BrokenRequest: there is none in it, or its length is not known beforehand.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    try:
        first, *lines = buffer[:end].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(":", 1)
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        length = int(headers.get("content-length", "0"))
    except ValueError as e:
        raise BrokenRequest(str(e)) from e
    if "transfer-encoding" in headers:
        raise BrokenRequest("a request must have its length in its headers")
    if len(buffer) < end + 4 + length:
        return None
    data = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    return Request(method, path, headers, data)


class HttpConnection(asyncio.Protocol):
    """One connection; requests that arrive during an answer wait for its end."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        """The answer that is being given."""
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def _out(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def _next(self) -> None:
        """Take the next request out of the buffer, if it is there."""
        raise NotImplementedError

    def _gone(self) -> None:
        """The client is gone."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        if self._task is None:
            self._next()

    def eof_received(self) -> None:
        """Called by the loop: clients of HTTP do not close one half only."""
        self._gone()
        self._out.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._gone()

    def pause_writing(self) -> None:
        """Called by the loop: the client does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._writable.set()


async def until_alone(*serving: asyncio.Task[None]) -> None:
    """Wait until the standard input ends, the parent is gone, or one of the tasks ends."""
    loop, over, parent = asyncio.get_running_loop(), asyncio.Event(), os.getppid()

    def wait_for_the_end_of_stdin() -> None:
        while os.read(0, 1024):
            pass
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=wait_for_the_end_of_stdin, daemon=True).start()
    while not over.is_set() and os.getppid() == parent and not any(task.done() for task in serving):
        try:
            await asyncio.wait_for(over.wait(), PARENT_SECONDS)
        except TimeoutError:
            continue
