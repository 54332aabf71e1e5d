"""Turns: so many at once, in order, and none lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired, Overloaded
from services.rag.faults import DatabaseDown
from services.rag.room import Room
from tests.waiting import eventually


class Holder:
    """Has a turn until it is let go."""

    def __init__(self, room: Room, seconds: float = 30) -> None:
        self.inside = False
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._hold(room, seconds))

    async def _hold(self, room: Room, seconds: float) -> None:
        async with room.turn(Deadline.after(seconds)):
            self.inside = True
            await self.go.wait()
        self.inside = False


async def test_those_who_wait_come_in_in_their_order() -> None:
    room = Room(2, 10)
    holders = [Holder(room) for _ in range(5)]
    await eventually(lambda: room.waiting == 3)
    assert [one.inside for one in holders] == [True, True, False, False, False]
    holders[1].go.set()
    await eventually(lambda: holders[2].inside)
    assert [one.inside for one in holders] == [True, False, True, False, False]
    assert (room.used, room.waiting) == (2, 2)
    for one in holders:
        one.go.set()
    await asyncio.gather(*(one.task for one in holders))
    assert (room.used, room.waiting) == (0, 0)


async def test_one_too_many_is_refused_and_the_others_are_not() -> None:
    room = Room(1, 1)
    holders = [Holder(room), Holder(room)]
    await eventually(lambda: room.waiting == 1)
    with pytest.raises(Overloaded) as refused:
        async with room.turn(Deadline.after(30)):
            pass
    assert refused.value.retry_seconds is not None
    for one in holders:
        one.go.set()
    await asyncio.gather(*(one.task for one in holders))


async def test_who_waits_beyond_the_deadline_leaves_no_gap_in_the_line() -> None:
    room = Room(1, 10)
    first, short, last = Holder(room), Holder(room, 0.05), Holder(room)
    with pytest.raises(Expired):
        await short.task
    assert room.waiting == 1
    first.go.set()
    await eventually(lambda: last.inside)
    last.go.set()
    await last.task
    assert (room.used, room.waiting) == (0, 0)


async def test_waiting_that_is_of_no_use_ends_for_all_at_once() -> None:
    room = Room(1, 10)
    first, *others = [Holder(room) for _ in range(4)]
    await eventually(lambda: room.waiting == 3)
    room.dismiss(DatabaseDown)
    told = await asyncio.gather(*(one.task for one in others), return_exceptions=True)
    assert [type(one) for one in told] == [DatabaseDown] * 3
    first.go.set()
    await first.task
    assert (room.used, room.waiting) == (0, 0)


async def test_no_turn_is_lost_when_callers_leave_at_any_moment() -> None:
    """Also when a turn is given to somebody who is just being cancelled."""
    chance = random.Random(11)
    room, most = Room(3, 1000), 0

    async def caller() -> None:
        nonlocal most
        async with room.turn(Deadline.after(chance.choice((0.0005, 0.002, 30)))):
            most = max(most, room.used)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)

    tasks = []
    for _ in range(600):
        tasks.append(asyncio.create_task(caller()))
        if chance.random() < 0.5:
            chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert (room.used, room.waiting) == (0, 0)
    async with asyncio.timeout(5):
        async with room.turn(Deadline.after(1)), room.turn(Deadline.after(1)), room.turn(Deadline.after(1)):
            assert room.used == 3
