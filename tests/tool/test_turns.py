"""Places that users take in turn."""

from __future__ import annotations

import asyncio

import pytest

from services.tool.turns import NoTurn, Turns

LONG = 30.0


class Queue:
    """Calls at one place, each of which ends when it is told to."""

    def __init__(self, places: int = 1) -> None:
        self.turns = Turns(places)
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def call(self, name: str, seconds: float = LONG) -> asyncio.Task[None]:
        """Begin one; the first letter is its user."""
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._call(name, seconds))
        await self.settle()
        return self._tasks[name]

    async def _call(self, name: str, seconds: float) -> None:
        async with self.turns.place(name[0], seconds):
            self.begun.append(name)
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_users_take_turns_however_many_calls_each_has() -> None:
    queue = Queue()
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        await queue.call(name)
    for _ in range(7):
        await queue.end(queue.begun[-1])
    assert queue.begun == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]
    assert repr(queue.turns) == "<Turns: 1 free, 0 calls of 0 users wait>"


async def test_a_first_call_waits_for_one_place_only() -> None:
    queue = Queue(places=2)
    for i in range(100):
        await queue.call(f"a{i}")
    await queue.end("a0")
    await queue.call("b0")
    await queue.end("a1")
    await queue.end("a2")
    assert queue.begun == ["a0", "a1", "a2", "a3", "b0"]


async def test_a_call_that_waits_too_long_is_told_and_leaves_the_queue() -> None:
    queue = Queue()
    await queue.call("a1")
    late = await queue.call("b1", seconds=0.01)
    with pytest.raises(NoTurn):
        await late
    assert queue.turns.waiting == 0
    await queue.call("b2")
    await queue.end("a1")
    assert queue.begun == ["a1", "b2"]


async def test_a_call_that_is_withdrawn_takes_no_place() -> None:
    queue = Queue()
    await queue.call("a1")
    gone = await queue.call("b1")
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await queue.call("c1")
    await queue.end("a1")
    assert queue.begun == ["a1", "c1"]


async def test_a_place_that_comes_just_when_its_call_is_withdrawn_goes_to_the_next() -> None:
    queue = Queue()
    first = await queue.call("a1")
    gone = await queue.call("b1")
    await queue.call("c1")
    first.cancel()
    await asyncio.sleep(0)  # the place is b1's now, which does not know yet
    gone.cancel()
    await queue.settle()
    assert gone.cancelled()
    assert queue.begun == ["a1", "c1"]
