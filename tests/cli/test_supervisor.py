from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from qingyu_ai.cli.probe import Probe
from qingyu_ai.cli.process import Program, Stage, Starting, Stopped, Stopping, Up
from qingyu_ai.cli.supervisor import Supervisor
from tests.cli.children import OBEDIENT, STUBBORN, Memory, impatient, python
from tests.waiting import eventually

Supervise = Callable[..., Supervisor]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def supervise(memory: Memory) -> AsyncIterator[Supervise]:
    """Makes supervisors, and leaves none of their children behind."""
    made: list[Supervisor] = []

    def make(programs: Iterable[Program], before: Probe | None = None) -> Supervisor:
        made.append(Supervisor(programs, memory.watcher, before=before, backoff=impatient))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.kill()
        await supervisor.stop()


class Gate:
    """A probe that a test opens."""

    def __init__(self) -> None:
        self.open = False

    async def ready(self) -> str:
        return "" if self.open else "the gate is shut"


def system(broker: Probe | None = None) -> list[Program]:
    """A small system, listed in no useful order."""
    options = {"ready": broker} if broker else {}
    return [
        python("bridge", OBEDIENT, stage=Stage.EDGE),
        python("chat-1", OBEDIENT, stage=Stage.WORKER),
        python("nats", OBEDIENT, stage=Stage.BROKER, **options),
        python("chat-2", OBEDIENT, stage=Stage.WORKER),
    ]


def names(memory: Memory, kind: type) -> list[str]:
    return [name for name, state in memory.states if isinstance(state, kind)]


async def everything_said(memory: Memory, count: int) -> None:
    """Each child is past the point where SIGTERM would end it without its own handler."""
    await eventually(lambda: len(memory.lines) == count)


async def test_the_broker_starts_first_and_the_others_wait_until_it_is_ready(
    supervise: Supervise, memory: Memory
) -> None:
    gate = Gate()
    supervisor = supervise(system(gate.ready))
    starting = asyncio.create_task(supervisor.start())
    await eventually(lambda: supervisor.waiting() == {"nats": "the gate is shut"})
    assert names(memory, Starting) == ["nats"]
    gate.open = True
    await starting
    assert sorted(names(memory, Up)) == ["bridge", "chat-1", "chat-2", "nats"]
    assert supervisor.waiting() == {}


async def test_a_worker_that_is_not_ready_does_not_hold_the_bridge_back(supervise: Supervise, memory: Memory) -> None:
    gate = Gate()
    supervisor = supervise(
        [python("chat", OBEDIENT, stage=Stage.WORKER, ready=gate.ready), python("bridge", OBEDIENT, stage=Stage.EDGE)]
    )
    starting = asyncio.create_task(supervisor.start())
    await eventually(lambda: memory.of("bridge", Up))
    assert not starting.done()
    gate.open = True
    await starting


async def test_nothing_starts_before_a_broker_that_somebody_else_runs_is_ready(
    supervise: Supervise, memory: Memory
) -> None:
    gate = Gate()
    supervisor = supervise([python("chat", OBEDIENT)], before=gate.ready)
    starting = asyncio.create_task(supervisor.start())
    await eventually(lambda: supervisor.waiting() == {"nats": "the gate is shut"})
    assert memory.states == []
    gate.open = True
    await starting


async def test_the_edge_stops_first_then_the_workers_and_the_broker_last(supervise: Supervise, memory: Memory) -> None:
    supervisor = supervise(system())
    await supervisor.start()
    await everything_said(memory, 4)
    assert await supervisor.stop() == []
    order = [(name, type(state)) for name, state in memory.states if isinstance(state, Stopping | Stopped)]
    assert order[:2] == [("bridge", Stopping), ("bridge", Stopped)]
    assert {name for name, _ in order[2:6]} == {"chat-1", "chat-2"}
    assert order[6:] == [("nats", Stopping), ("nats", Stopped)]


async def test_the_workers_drain_side_by_side(supervise: Supervise, memory: Memory) -> None:
    supervisor = supervise(system())
    await supervisor.start()
    await everything_said(memory, 4)
    await supervisor.stop()
    workers = [
        type(state) for name, state in memory.states if name.startswith("chat") and type(state) not in (Starting, Up)
    ]
    assert workers == [Stopping, Stopping, Stopped, Stopped]


async def test_who_had_to_be_killed_is_named_and_the_others_still_stop(supervise: Supervise, memory: Memory) -> None:
    supervisor = supervise(
        [
            python("bridge", STUBBORN, stage=Stage.EDGE, stop_seconds=0.2),
            python("nats", OBEDIENT, stage=Stage.BROKER),
        ]
    )
    await supervisor.start()
    await everything_said(memory, 2)
    assert [process.program.name for process in await supervisor.stop()] == ["bridge"]
    assert names(memory, Stopped) == ["bridge", "nats"]


async def test_killing_ends_a_stop_that_takes_too_long(supervise: Supervise, memory: Memory) -> None:
    supervisor = supervise([python(name, STUBBORN, stop_seconds=600) for name in ("one", "two")])
    await supervisor.start()
    await everything_said(memory, 2)
    stopping = asyncio.create_task(supervisor.stop())
    await eventually(lambda: len(names(memory, Stopping)) == 2)
    supervisor.kill()
    assert len(await asyncio.wait_for(stopping, 5)) == 2


async def test_stopping_before_the_start_is_over_leaves_nothing_running(supervise: Supervise, memory: Memory) -> None:
    gate = Gate()
    supervisor = supervise(system(gate.ready))
    starting = asyncio.create_task(supervisor.start())
    await everything_said(memory, 1)
    starting.cancel()
    assert await supervisor.stop() == []
    assert names(memory, Starting) == names(memory, Stopped) == ["nats"]
