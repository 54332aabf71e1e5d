"""Callers give up at random moments: in the queue, about the claim, before the first token, in the middle of the text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc

from tests.faults.broker import Broker, observed
from tests.faults.clients import Client, Stub, connected, until
from tests.faults.insides import insides, shrinks_to
from tests.faults.ledger import Attempt
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.waiting import eventually

SLOTS = 40
"""Of the one worker, but for the last one, which is for another user: so many calls run, the next one waits in the queue."""

AT_CLAIM, QUEUED = 12, 12
"""Of each round, beside the calls that fill the slots, of which half have had a first token."""

CLOSED_SECONDS = 0.25
"""The p99 from a cancel to the end of the connection to the model."""


def run(run: Run, outcome: Outcome) -> None:
    """Cancel as many calls as the dose, in rounds."""
    with rig(run, workers=1, settings={"QINGYU_CHAT__SLOTS": str(SLOTS + 1)}, tells=True) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    processes = [*it.system.bridges, *it.system.workers]
    closed: list[float] = []
    async with connected(it.system.target) as stub, observed(it.system.nats.url) as broker:
        await asyncio.gather(
            *(Client(it.ask(3, 50)).stream(stub) for _ in range(SLOTS))
        )  # all that is made once is made
        before = {process: await insides(process) for process in processes}
        consumers = await broker.consumers()
        cancelled = 0
        while cancelled < run.dose:
            cancelled += await _round(it, stub, broker, outcome, closed)
        for process in processes:
            more = await shrinks_to(process, before[process])
            outcome.check(not more, f"{process.name} holds more than before: {more}")
        outcome.expect("consumers left", await broker.consumers() - consumers, 0)
        outcome.expect("jobs left", await broker.open_jobs(), 0)
    outcome.counts |= {"cancelled": cancelled, "sockets closed": len(closed)}
    outcome.time("cancel to close p50", closed, part=0.5)
    outcome.time("cancel to close p99", closed, at_most=CLOSED_SECONDS, part=0.99)
    await it.check_heals(outcome)


async def _round(it: Rig, stub: Stub, broker: Broker, outcome: Outcome, closed: list[float]) -> int:
    it.model.forget()
    at_claim = [Client(it.ask(200, 25, think=0.2)) for _ in range(AT_CLAIM)]
    cancelled_at = await _cancelled(at_claim, [it.random.uniform(0, 0.03) for _ in at_claim], stub)
    await eventually(broker.no_jobs)

    silent = [Client(it.ask(10, 25, think=60)) for _ in range(SLOTS // 2)]
    speaking = [Client(it.ask(2000, 25)) for _ in range(SLOTS // 2)]
    running = [*silent, *speaking]
    reading = [asyncio.create_task(client.stream(stub)) for client in running]
    await eventually(lambda: _all_asked(it, running))
    outcome.check(await until(lambda: all(client.text for client in speaking), 10), "streams did not begin")

    queued = [Client(it.ask(10, 25)) for _ in range(QUEUED)]
    await _cancelled(queued, [it.random.uniform(0.02, 0.3) for _ in queued], stub)

    moments = [it.random.uniform(0, 0.6) for _ in running]
    cancelled_at |= await _cancelled(running, moments, stub, reading)
    try:
        await eventually(broker.no_jobs, timeout=5)
        await eventually(lambda: _all_closed(it), timeout=5)
    except AssertionError:
        pass  # what is left open is found below
    everybody = [*at_claim, *running, *queued]
    ledger = await it.check(outcome, everybody)
    for client in queued:
        outcome.check(
            not ledger[client.ask.call], f"{client.ask.call} was cancelled in the queue, and the model was asked"
        )
    for client in everybody:
        code = client.failure.code if client.failure else None
        outcome.check(code is grpc.StatusCode.CANCELLED, f"{client!r} was cancelled")
        for attempt in ledger[client.ask.call]:
            _note(attempt, cancelled_at[client], closed, outcome)
    return len(everybody)


def _note(attempt: Attempt, cancelled_at: float, closed: list[float], outcome: Outcome) -> None:
    if attempt.ended == "closed":
        # The model may have been asked after the cancel: by a claim that the cancel met.
        closed.append(max(0.0, attempt.ended_at - max(cancelled_at, attempt.asked_at)))
    else:
        outcome.wrong.append(f"socket of {attempt.call} is {attempt.ended or 'open'} after its cancel")


async def _cancelled(
    clients: Sequence[Client],
    moments: Sequence[float],
    stub: Stub,
    reading: Sequence[asyncio.Task[None]] | None = None,
) -> dict[Client, float]:
    """Give each up at its moment.

    Returns:
        When that was, on `time.monotonic()`.
    """
    tasks = reading or [asyncio.create_task(client.stream(stub)) for client in clients]
    at: dict[Client, float] = {}

    async def give_up(client: Client, moment: float) -> None:
        await asyncio.sleep(moment)
        at[client] = time.monotonic()
        client.cancel()

    await asyncio.gather(*(give_up(client, moment) for client, moment in zip(clients, moments, strict=True)))
    await asyncio.gather(*tasks)
    return at


async def _all_asked(it: Rig, clients: Sequence[Client]) -> bool:
    ledger = await asyncio.to_thread(it.model.ledger)
    return all(ledger[client.ask.call] for client in clients)


async def _all_closed(it: Rig) -> bool:
    ledger = await asyncio.to_thread(it.model.ledger)
    return all(attempt.ended for attempts in ledger.values() for attempt in attempts)


ROW = Row(
    "cancel",
    "callers give up in every phase: the model's socket is closed at once, the queued never start, nothing is left behind",
    full=1000,
    short=100,
    run=run,
    controls=(Control("cancel", "is open after its cancel", dose=10),),
)
