"""Reading many sockets on a beat."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest

from services.llm.coalescing import BEAT_SECONDS, CROWD, Readable
from tests.waiting import eventually

Pair = tuple[socket.socket, socket.socket]


class Sockets:
    """Pairs of sockets, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.on_told: Callable[[int], None] = lambda fd: None
        self.by_fd: dict[int, Pair] = {}

    def ready(self, fd: int) -> None:
        """Read what there is."""
        self.told.append(fd)
        self.by_fd[fd][0].recv(100)
        self.on_told(fd)

    def write(self) -> None:
        """Have each be readable."""
        for _, writer in self.by_fd.values():
            writer.send(b"x")


@asynccontextmanager
async def readable(count: int) -> AsyncIterator[tuple[Readable, Sockets]]:
    sockets = Sockets()
    watched = Readable(asyncio.get_running_loop(), sockets.ready)
    async with AsyncExitStack() as stack:
        for _ in range(count):
            reader, writer = socket.socketpair()
            stack.callback(reader.close)
            stack.callback(writer.close)
            sockets.by_fd[reader.fileno()] = (reader, writer)
            watched.add(reader.fileno())
        yield watched, sockets
    watched.close()


@pytest.mark.parametrize("count", [1, CROWD - 1, CROWD, 5 * CROWD])
async def test_each_socket_is_told_of_once_for_what_it_has(count: int) -> None:
    async with readable(count) as (_, sockets):
        for times in range(1, 4):
            sockets.write()
            await eventually(lambda times=times: len(sockets.told) >= times * count)  # type: ignore[misc]
            assert sorted(sockets.told) == sorted([*sockets.by_fd] * times)


class Loop:
    """What is asked of an event loop, to be run by hand."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Keep it."""
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        """Forget it."""
        del self.readers[fd]

    def call_later(self, seconds: float, callback: Callable[[], None]) -> object:
        """Keep it."""
        self.timers.append((seconds, callback))
        return self.timers

    def wake(self) -> None:
        """Say that the one descriptor can be read."""
        [look] = self.readers.values()
        look()

    def beat(self) -> None:
        """Let the one timer go off."""
        [(seconds, look)], self.timers = self.timers, []
        assert seconds == BEAT_SECONDS
        look()


def test_a_crowd_is_looked_at_once_a_beat_until_it_is_quiet_and_a_few_are_told_of_at_once() -> None:
    loop = Loop()
    told: list[int] = []
    pairs: dict[int, Pair] = {}

    def ready(fd: int) -> None:
        told.append(fd)
        pairs[fd][0].recv(9)

    watched = Readable(cast(asyncio.AbstractEventLoop, loop), ready)
    for _ in range(CROWD):
        reader, writer = socket.socketpair()
        pairs[reader.fileno()] = reader, writer
        watched.add(reader.fileno())

    def write() -> int:
        for _, writer in pairs.values():
            writer.send(b"x")
        return len(told)

    write()
    loop.wake()
    assert sorted(told) == sorted(pairs)
    for _ in range(3):
        before = write()
        assert not loop.readers  # nothing wakes the loop now but the beat
        loop.beat()
        assert len(told) == before + CROWD
    loop.beat()
    assert loop.readers
    assert not loop.timers  # quiet: no more beats
    one, others = next(iter(pairs)), len(pairs) - 1
    watched.remove(one)
    for part in pairs.pop(one):
        part.close()
    for _ in range(3):
        before = write()
        loop.wake()
        assert len(told) == before + others
        assert not loop.timers
    watched.close()
    for reader, writer in pairs.values():
        reader.close()
        writer.close()


async def test_a_socket_that_is_removed_while_others_are_told_of_is_not_told_of_any_more() -> None:
    async with readable(2) as (watched, sockets):

        def remove_other(fd: int) -> None:
            [other] = sockets.by_fd.keys() - {fd}
            watched.remove(other)

        sockets.on_told = remove_other
        sockets.write()
        await eventually(lambda: sockets.told)
        await asyncio.sleep(0.01)
        assert len(sockets.told) == 1


async def test_a_socket_that_was_closed_is_removed_without_a_word_and_its_number_may_be_used_again() -> None:
    async with readable(1) as (watched, sockets):
        [(fd, (reader, _))] = sockets.by_fd.items()
        reader.close()
        watched.remove(fd)
        again, writer = socket.socketpair()
        with again, writer:
            sockets.by_fd = {again.fileno(): (again, writer)}
            watched.add(again.fileno())
            sockets.write()
            await eventually(lambda: sockets.told == [again.fileno()])


@pytest.mark.parametrize("count", [1, CROWD])
async def test_nothing_is_told_after_the_end(count: int) -> None:
    async with readable(count) as (watched, sockets):
        sockets.write()
        await eventually(lambda: len(sockets.told) == count)
        watched.close()
        sockets.write()
        await asyncio.sleep(0.02)
        assert len(sockets.told) == count
        watched.close = lambda: None  # type: ignore[method-assign]
