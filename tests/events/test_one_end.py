"""A worker is lost at each step of a job's completion: whoever gets the job tells the end, under one id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from qingyu_ai.bus.claiming import Claimed
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.job import JobRun
from qingyu_ai.bus.pull import NatsDelivery
from qingyu_ai.bus.speaker import Speaker
from qingyu_ai.events.publishing import Publisher
from tests.bus.system import System, spell, vanish
from tests.events.conftest import Published
from tests.waiting import eventually

STEPS: dict[str, tuple[type, str, bool]] = {
    "before the commit": (Claimed, "decide", False),
    "after the commit": (Claimed, "decide", True),
    "after the end frame": (Speaker, "end", True),
    "after the follow-up": (JobRun, "_follow_up", True),
    "before the event": (Publisher, "decided", False),
    "after the event": (Publisher, "decided", True),
}
"""Where the worker is lost: at a call of this method, before or after it has done its work."""


def lose_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *, after: bool) -> asyncio.Event:
    """Have the first call of a method never come back.

    Returns:
        Set when it is there.
    """
    reached = asyncio.Event()
    original: Callable[..., Any] = getattr(owner, name)

    async def lost_once(*args: Any, **more: Any) -> Any:
        first = not reached.is_set()
        if first and not after:
            reached.set()
            await asyncio.sleep(3600)
        result = await original(*args, **more)
        if first:
            reached.set()
            await asyncio.sleep(3600)
        return result

    monkeypatch.setattr(owner, name, lost_once)
    return reached


@pytest.mark.parametrize("step", STEPS)
async def test_end_of_a_call_has_one_id_wherever_its_worker_is_lost(
    step: str, system: System, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, after = STEPS[step]
    reached = lose_at(monkeypatch, owner, name, after=after)
    first = await system.worker(stream=spell, continues=True)
    reading = await system.submit("黛玉葬花", stream=True, seconds=30)
    await asyncio.wait_for(reached.wait(), 10)
    await vanish(first)
    second = await system.worker(stream=spell, continues=True)
    while await reading.take():
        pass
    assert reading.end is not None
    assert not reading.end.status
    system.caller.close(reading)
    bus = system.buses[-1]

    async def forgotten() -> bool:
        assert isinstance(bus, NatsBus)
        return (await bus.jetstream.stream_info("AI_CHAT")).state.messages == 0

    await eventually(forgotten)
    assert not second.jobs.answered
    ends = await published.ends(reading.call)
    assert [event.name for event in ends] == ["completed"]
    assert {event.id for event in ends} == {f"{reading.call}.{ends[0].id.rpartition('.')[2]}"}


async def test_lost_acknowledgement_of_the_job_does_not_make_a_second_end(
    system: System, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    ack = NatsDelivery.ack

    def lose_first(self: NatsDelivery) -> None:
        if not lost:
            lost.append(self.sequence)
            return
        ack(self)

    monkeypatch.setattr(NatsDelivery, "ack", lose_first)
    await system.worker(stream=spell, continues=True)
    reading = await system.submit("黛玉", stream=True)
    while await reading.take():
        pass
    system.caller.close(reading)
    await eventually(lambda: sum(p.sent["completed"] for p in published.publishers) == 2)  # told twice,
    assert len(await published.ends(reading.call)) == 1  # stored once
