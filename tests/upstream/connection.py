"""One connection of the upstream: reads requests by hand, and writes answers, or what is worse."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.upstream.pace import Wheels
from tests.upstream.script import Cut, Ended, Pause, Seen, Stall
from tests.upstream.wire import Loop, Op, Paced, Ready

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time: what closes the socket resets the connection."""


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


Answer = Callable[[Request, Seen], Ready]
"""Decides what a request gets."""


class Connection(asyncio.Protocol):
    """Answers one request after another."""

    def __init__(self, number: int, answer: Answer, wheels: Wheels) -> None:
        self._number = number
        self._answer = answer
        self._wheels = wheels
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen: list[Seen] = []
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop: requests that arrive during an answer wait for its end."""
        self._buffer += data
        if self._task is None:
            self._next()

    def eof_received(self) -> None:
        """Called by the loop: clients of HTTP do not close one half only."""
        self._gone()
        assert self._transport is not None
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._gone()

    def pause_writing(self) -> None:
        """Called by the loop: the client does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._writable.set()

    def _next(self) -> None:
        assert self._transport is not None
        try:
            request = read_request(self._buffer)
        except BrokenRequest as e:
            self._transport.write(f"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n{e}".encode())
            self._transport.close()
            return
        if request is None:
            return
        seen = Seen(request.method, request.path, request.headers, request.json(), self._number, at=time.monotonic())
        self._seen.append(seen)
        ready = self._answer(request, seen)
        if request.headers.get("connection", "").lower() == "close":
            ready = Ready(ready.ops, ready.delay, True, ready.gap)
        self._task = asyncio.get_running_loop().create_task(self._play(ready, seen))

    async def _play(self, ready: Ready, seen: Seen) -> None:
        assert self._transport is not None
        if ready.delay:
            await asyncio.sleep(ready.delay)
        for op in ready.ops:
            if type(op) is bytes:
                self._transport.write(op)
                if not self._writable.is_set():
                    await self._writable.wait()
                if ready.gap is not None:
                    await asyncio.sleep(ready.gap)
            elif isinstance(op, Cut):
                self._cut(op, seen)
                return
            else:
                await self._do(op)
        self._end(seen, "complete")
        self._task = None
        if ready.close:
            self._transport.close()
        else:
            self._next()

    async def _do(self, op: Op) -> None:
        assert self._transport is not None
        match op:
            case Pause():
                await asyncio.sleep(op.seconds)
            case Stall():
                await asyncio.get_running_loop().create_future()
            case Paced():
                await self._wheels.of(op.pace).run(self._transport, op.writes)
            case Loop():
                while True:
                    self._transport.write(op.data)
                    await self._writable.wait()
                    await asyncio.sleep(op.every)

    def _cut(self, cut: Cut, seen: Seen) -> None:
        assert self._transport is not None
        self._end(seen, "server_cut")
        if cut.how == "rst":
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
        else:
            self._transport.close()

    def _gone(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        now = time.monotonic()
        for seen in self._seen:
            if seen.ended is None:
                seen.ended, seen.ended_at = "client_closed", now
            seen.closed_at = now
        self._seen.clear()

    @staticmethod
    def _end(seen: Seen, how: Ended) -> None:
        seen.ended, seen.ended_at = how, time.monotonic()
