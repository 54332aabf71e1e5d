"""A proxy between workers and their broker that reads what passes, and lets a rule lose, double, delay or hold it.

    with NatsProxy(rule) as proxy:
        proxy.to = nats.port
        worker = add_worker(NATS_URL=proxy.door())

Each worker gets a door of its own, so that the rule knows who speaks. It all runs in one thread, the rule too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from .nats_wire import Message, Parser

PASS: Sequence[float] = (0.0,)
TWICE: Sequence[float] = (0.0, 0.0)
DROP: Sequence[float] = ()


class Link:
    """One connection of a worker."""

    def __init__(self, door: int, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.door = door
        """Counts from 0, in the order in which doors were made."""
        self._client = client
        self._server = server

    def up(self, message: Message) -> None:
        """Send to the broker."""
        self._server.write(message.raw)

    def down(self, message: Message) -> None:
        """Send to the worker."""
        self._client.write(message.raw)


class Rule(Protocol):
    """Decides about messages. Each method returns after how many seconds the message is sent, for each copy of it."""

    def up(self, link: Link, message: Message) -> Sequence[float]:
        """A message of a worker's."""

    def down(self, link: Link, message: Message) -> Sequence[float]:
        """A message to a worker."""


class NatsProxy:
    """The thread, as a context manager."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._doors = itertools.count()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.to = 0
        """The port of the broker."""

    def __enter__(self) -> NatsProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def door(self) -> str:
        """Open one more door.

        Returns:
            Its address, for NATS_URL.
        """
        return asyncio.run_coroutine_threadsafe(self._open(next(self._doors)), self._loop).result(10)

    async def _open(self, door: int) -> str:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await self._serve(door, reader, writer)

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        self._servers.append(server)
        return f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, door: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker, out = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        link = Link(door, writer, out)
        pumps = [
            asyncio.ensure_future(self._pump(reader, link, self._rule.up, link.up)),
            asyncio.ensure_future(self._pump(broker, link, self._rule.down, link.down)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, out):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, link: Link, rule: object, send: object) -> None:
        assert callable(rule)
        assert callable(send)
        parser = Parser()
        while data := await source.read(64 * 1024):
            for message in parser.feed(data):
                for delay in rule(link, message):
                    if delay:
                        self._loop.call_later(delay, send, message)
                    else:
                        send(message)
