"""Reading many sockets on a beat."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from services.llm import coalescing
from services.llm.coalescing import CROWD, Readable
from tests.waiting import eventually

Pair = tuple[socket.socket, socket.socket]


class Sockets:
    """Pairs of sockets, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.looks: list[float] = []
        """When something was told, by the loop's clock."""
        self.on_told: Callable[[int], None] = lambda fd: None
        self.by_fd: dict[int, Pair] = {}

    def ready(self, fd: int) -> None:
        """Read what there is."""
        self.told.append(fd)
        self.looks.append(asyncio.get_running_loop().time())
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


async def test_a_crowd_is_looked_at_once_a_beat_and_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "BEAT_SECONDS", 0.2)
    async with readable(CROWD) as (watched, sockets):
        sockets.write()
        await eventually(lambda: len(sockets.told) == CROWD)
        first = sockets.looks[0]
        sockets.write()
        await eventually(lambda: len(sockets.told) == 2 * CROWD)
        assert sockets.looks[CROWD] - first >= 0.19  # one timer later, never at once
        watched.remove(sockets.told[-1])
        del sockets.by_fd[sockets.told[-1]]
        await asyncio.sleep(0.25)  # the beat ends when nothing came
        for _ in range(2):
            count = len(sockets.told)
            sockets.write()
            await asyncio.sleep(0)  # a turn to find them readable, one to be told
            await asyncio.sleep(0)
            assert len(sockets.told) == count + CROWD - 1


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
