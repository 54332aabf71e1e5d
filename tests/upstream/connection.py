"""One connection of the upstream: reads requests by hand, and writes answers, or what is worse."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable

from tests.upstream.http import BrokenRequest, HttpConnection, Request, read_request
from tests.upstream.pace import Wheels
from tests.upstream.script import Cut, Ended, Pause, Seen, Stall
from tests.upstream.wire import Loop, Op, Paced, Ready

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time: what closes the socket resets the connection."""


Answer = Callable[[Request, Seen], Ready]
"""Decides what a request gets."""


class Connection(HttpConnection):
    """Answers one request after another."""

    def __init__(self, number: int, answer: Answer, wheels: Wheels) -> None:
        super().__init__()
        self._number = number
        self._answer = answer
        self._wheels = wheels
        self._seen: list[Seen] = []

    def _next(self) -> None:
        try:
            request = read_request(self._buffer)
        except BrokenRequest as e:
            self._out.write(f"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n{e}".encode())
            self._out.close()
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
        if ready.delay:
            await asyncio.sleep(ready.delay)
        for op in ready.ops:
            if type(op) is bytes:
                self._out.write(op)
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
            self._out.close()
        else:
            self._next()

    async def _do(self, op: Op) -> None:
        match op:
            case Pause():
                await asyncio.sleep(op.seconds)
            case Stall():
                await asyncio.get_running_loop().create_future()
            case Paced():
                await self._wheels.of(op.pace).run(self._out, op.writes)
            case Loop():
                while True:
                    self._out.write(op.data)
                    await self._writable.wait()
                    await asyncio.sleep(op.every)

    def _cut(self, cut: Cut, seen: Seen) -> None:
        self._end(seen, "server_cut")
        if cut.how == "rst":
            self._out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._out.abort()
        else:
            self._out.close()

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
