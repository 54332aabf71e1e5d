"""Minutes of mixed load with one fault in each: does anything grow?

The first bridge and the first worker are never killed, only frozen: what they hold is looked at after each minute.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from bench.processes import resident_bytes
from qingyu_ai.bus import topology
from tests.e2e.callers import LEASE
from tests.faults.broker import Broker, observed
from tests.faults.clients import Client, Stub, connected
from tests.faults.insides import insides
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.process import Running
from tests.waiting import eventually

MINUTE, SHORT_MINUTE = 60.0, 15.0

USERS = 16

TRIES = 12
"""Readings of one call, at both bridges in turn, before it counts as lost."""

FROZEN_SECONDS = 2 * LEASE

BRIDGE_DIES, WORKER_DIES, WORKER_FREEZES, BRIDGE_FREEZES = (
    "bridge dies",
    "worker dies",
    "worker freezes",
    "bridge freezes",
)
FAULTS = (BRIDGE_DIES, WORKER_DIES, WORKER_FREEZES, BRIDGE_FREEZES)

MIB = 1024 * 1024

GROWTH, SLACK = 1.15, 4 * MIB
"""What memory may grow by from the second minute on, when all has been used once."""


@dataclass(frozen=True)
class _Sample:
    """What is held at the end of a minute, when nothing runs."""

    memory: dict[str, int]
    held: dict[str, int]
    """Tasks and waiting requests of each process, and the consumers of the log."""


@dataclass
class _Load:
    it: Rig
    outcome: Outcome
    stubs: list[Stub]
    ends_at: float = 0.0
    calls: int = 0
    again: int = 0


def run(run: Run, outcome: Outcome) -> None:
    """Run as many minutes as the dose."""
    with rig(run, workers=2, bridges=2, tells=True) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    bridges = it.system.bridges
    samples: list[_Sample] = []
    async with (
        connected(bridges[0].target) as first,
        connected(bridges[1].target) as second,
        observed(it.system.nats.url) as broker,
    ):
        load = _Load(it, outcome, [first, second])
        for minute in range(run.dose + 1):  # the first one is without a fault, for what is made once
            load.ends_at = time.monotonic() + (SHORT_MINUTE if run.short else MINUTE)
            users = [asyncio.create_task(_user(load, i)) for i in range(USERS)]
            if minute:
                await _fault(it, FAULTS[(minute - 1) % len(FAULTS)], load.ends_at)
            await asyncio.gather(*users)
            await eventually(broker.no_jobs, timeout=15)
            await asyncio.to_thread(it.system.wait_ready)
            samples.append(await _sample(it, broker))
            it.model.forget()
        keys = (await broker.js.stream_info(topology.CALLS)).state.messages
        sessions = (await broker.js.stream_info(topology.SESSIONS)).state.messages
    outcome.counts |= {"minutes": run.dose, "calls": load.calls, "read again": load.again}
    outcome.counts["records"] = keys
    # A call whose bridge dies early may leave none.
    outcome.check(load.calls - USERS * run.dose <= keys <= load.calls, f"records: {keys}, for {load.calls} calls")
    outcome.expect("sessions", sessions, USERS)
    _judge(samples, outcome)
    await it.check_heals(outcome)


def _judge(samples: list[_Sample], outcome: Outcome) -> None:
    base, last = samples[min(1, len(samples) - 2)], samples[-1]
    for name, count in last.held.items():
        before = samples[0].held[name]
        outcome.counts[name] = count
        outcome.check(count <= before, f"{name}: {count}, and {before} at the beginning")
    for name, size in last.memory.items():
        outcome.counts[f"{name} MiB"] = round(size / MIB)
        limit = base.memory[name] * GROWTH + SLACK
        outcome.check(size <= limit, f"{name} has {size / MIB:.0f} MiB, and had {base.memory[name] / MIB:.0f}")


async def _sample(it: Rig, broker: Broker) -> _Sample:
    watched: list[Running] = [it.system.bridges[0], it.system.workers[0]]
    await asyncio.sleep(1.5)  # for what runs on a clock: cancels that are told again, consumers that are deleted
    held = {"consumers": await broker.consumers()}
    for process in watched:
        held |= {f"{process.name} {what}": count for what, count in (await insides(process)).items()}
    return _Sample({process.name: resident_bytes(process.pid) for process in watched}, held)


async def _fault(it: Rig, fault: str, ends_at: float) -> None:
    left = ends_at - time.monotonic()
    await asyncio.sleep(it.random.uniform(0.2, 0.6) * left)
    victim: Running
    if fault in (BRIDGE_DIES, WORKER_DIES):
        victim = it.system.bridges[1] if fault == BRIDGE_DIES else it.system.workers[1]
        victim.kill()
        await asyncio.sleep(0.5)  # callers go to the other one meanwhile
        victim.start()
        return
    victim = it.system.bridges[0] if fault == BRIDGE_FREEZES else it.system.workers[0]
    victim.pause()
    await asyncio.sleep(FROZEN_SECONDS)
    victim.resume()


async def _user(load: _Load, number: int) -> None:
    """Make one call after another until the minute is over."""
    chance = load.it.random
    while time.monotonic() < load.ends_at:
        kind = chance.choice(("stream", "stream", "chat", "cancel", "deadline"))
        timeout = chance.uniform(0.2, 1.0) if kind == "deadline" else 40.0
        tokens = chance.randint(10, 80)
        session = f"session-{number}" if kind == "chat" else ""
        client = Client(load.it.ask(tokens, 25, think=0.1), load.it.either(), session=session, timeout=timeout)
        load.calls += 1
        if kind in ("stream", "chat"):
            await _to_the_end(load, client, number, unary=kind == "chat")
            continue
        reading = asyncio.create_task(client.stream(load.stubs[number % 2]))
        if kind == "cancel":
            await asyncio.sleep(chance.uniform(0.05, 1))
            client.cancel()
        await reading
        await load.it.check(load.outcome, [client])


async def _to_the_end(load: _Load, client: Client, number: int, *, unary: bool) -> None:
    for attempt in range(TRIES):
        stub = load.stubs[(number + attempt) % 2]
        await (client.chat(stub) if unary else client.stream(stub))
        if client.failure is None:
            break
        load.again += 1
        await asyncio.sleep(0.3)
    load.outcome.check(client.failure is None, f"{client!r} after {TRIES} readings")
    await load.it.check(load.outcome, [client])


ROW = Row(
    "soak",
    "minutes of mixed load with a fault in each: nothing is lost, and memory, tasks, consumers and keys do not grow",
    full=10,
    short=0,
    run=run,
    controls=(Control("dismiss", "at the beginning", dose=1),),
)
