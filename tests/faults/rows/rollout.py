"""A rollout: every process is told to stop, drained and started again, one after the other, under load.

Callers do what gRPC's clients do by themselves: who is UNAVAILABLE is tried once more, at another bridge, under the same request
id; a stream is read on from where it stands. Most calls are shorter than the drain. Some are longer: those are cut with their
bridge, and given back by their worker.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import grpc

from tests.faults.broker import Broker, check_sessions, observed
from tests.faults.clients import Client, Stub, connected
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.process import Running
from tests.waiting import eventually

DRAIN_SECONDS = 2.5

SETTINGS = {"QINGYU_BRIDGE__DRAIN_SECONDS": str(DRAIN_SECONDS), "QINGYU_CHAT__DRAIN_SECONDS": str(DRAIN_SECONDS)}

SHORT_TOKENS, LONG_TOKENS, PER_SECOND = 25, 125, 25
"""A second, and twice the drain."""

CHATTERS, READERS, LONG_READERS = 8, 8, 4
"""Callers of unary calls, of streams, and of streams that are longer than a drain; each makes one call after another."""

WORKERS = 2

BACKOFF = [(f"grpc.{name}_reconnect_backoff_ms", 100) for name in ("initial", "min", "max")]
"""A bridge that is back is found again before the next one ends; a rollout of minutes leaves clients that time anyway."""

MOST_CUTS = 3
"""Of one long stream: it may meet the end of a bridge, and then that of the other, where it was read on."""

APART_SECONDS = 0.7
"""Between the start of a process and the end of the next one, beside the time until it serves."""


@dataclass
class _Load:
    it: Rig
    outcome: Outcome
    stubs: list[Stub]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    chats: list[Client] = field(default_factory=list)
    streams: list[Client] = field(default_factory=list)
    long: list[Client] = field(default_factory=list)
    again: int = 0
    bridge_ended_at: list[float] = field(default_factory=list)
    """When a bridge was gone that had been told to stop."""


def run(run: Run, outcome: Outcome) -> None:
    """Roll out as often as the dose."""
    with rig(run, workers=WORKERS, bridges=2, settings=SETTINGS) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    async with (
        connected(it.system.bridges[0].target, BACKOFF) as first,
        connected(it.system.bridges[1].target, BACKOFF) as second,
        observed(it.system.nats.url) as broker,
    ):
        load = _Load(it, outcome, [first, second])
        callers = [asyncio.create_task(_chat(load, i)) for i in range(CHATTERS)]
        callers += [asyncio.create_task(_stream(load, i, SHORT_TOKENS, load.streams)) for i in range(READERS)]
        callers += [asyncio.create_task(_stream(load, i, LONG_TOKENS, load.long)) for i in range(LONG_READERS)]
        for _ in range(run.dose):
            processes: list[Running] = [*it.system.bridges, *it.system.workers]
            for process in processes:
                await asyncio.sleep(it.random.uniform(0, APART_SECONDS))
                await _roll(load, process)
        load.over.set()
        await asyncio.gather(*callers)
        await eventually(broker.no_jobs, timeout=15)
        await _judge(load, broker)
    outcome.counts |= {
        "ended": run.dose * (WORKERS + 2),
        "chats": len(load.chats),
        "streams": len(load.streams),
        "long streams": len(load.long),
        "again": load.again,
    }
    outcome.time("stream silence", (c.longest_silence for c in load.streams))
    outcome.time("long stream silence", (c.longest_silence for c in load.long))
    await it.check_heals(outcome)


async def _roll(load: _Load, process: Running) -> None:
    process.terminate()
    status = await asyncio.to_thread(process.wait)
    load.outcome.check(status == 0, f"{process.name} ended with status {status}")
    if process in load.it.system.bridges:
        load.bridge_ended_at.append(time.monotonic())
    process.start()
    await asyncio.to_thread(load.it.system.wait_ready)


async def _chat(load: _Load, number: int) -> None:
    while not load.over.is_set():
        client = Client(load.it.ask(SHORT_TOKENS, PER_SECOND), load.it.either(), session=f"session-{number}")
        load.chats.append(client)
        await client.chat(load.stubs[number % 2])
        if client.failure and client.failure.code is grpc.StatusCode.UNAVAILABLE:
            load.again += 1
            await client.chat(load.stubs[1 - number % 2])
        load.outcome.check(client.failure is None, f"chat: {client!r}")
        number += CHATTERS + 1  # at the other bridge next time, and in the same session only by turns


async def _stream(load: _Load, number: int, tokens: int, among: list[Client]) -> None:
    while not load.over.is_set():
        client = Client(load.it.ask(tokens, PER_SECOND), load.it.either())
        among.append(client)
        for attempt in range(1 + MOST_CUTS):
            began_at = time.monotonic()
            had = len(client.text)
            await client.stream(load.stubs[(number + attempt) % 2])
            if not client.failure or client.failure.code is not grpc.StatusCode.UNAVAILABLE:
                break
            load.again += 1
            if len(client.text) > had:
                cut = await _bridge_ended(load, began_at)
                load.outcome.check(cut, f"cut, and no bridge ended: {client!r}")
                load.outcome.check(among is load.long, f"cut, and is shorter than a drain: {client!r}")
            elif attempt:
                break  # refused twice
        load.outcome.check(client.failure is None, f"stream: {client!r}")
        number += 1


async def _bridge_ended(load: _Load, since: float) -> bool:
    """Whether a bridge ended while a call was open, or ends about now."""
    for _ in range(100):
        if any(at > since for at in load.bridge_ended_at):
            return True
        await asyncio.sleep(0.02)
    return False


async def _judge(load: _Load, broker: Broker) -> None:
    ledger = await load.it.check(load.outcome, [*load.chats, *load.streams, *load.long])
    for client in (*load.chats, *load.streams):
        times = len(ledger[client.ask.call])
        load.outcome.check(times == 1, f"shorter than a drain, and the model was asked {times} times: {client!r}")
    load.outcome.counts["given back"] = sum(len(ledger[client.ask.call]) - 1 for client in load.long)
    for client in load.long:
        held = await broker.record(client)
        load.outcome.check(held is not None, f"has no record: {client!r}")
        lost = held.deaths if held is not None else 0
        load.outcome.check(not lost, f"counted as lost, though its worker stopped in good order: {client!r}")
    await check_sessions(broker, load.chats, load.outcome)


ROW = Row(
    "rollout",
    "SIGTERM of every process in turn under load: no unary call fails, no stream breaks, nothing is asked of the model twice",
    full=3,
    short=1,
    run=run,
    controls=(Control("drain", "shorter than a drain", dose=1), Control("give-back", "counted as lost", dose=1)),
)
