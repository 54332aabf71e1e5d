"""Deadlines of 0.1 to 2 s over work that takes longer, and over work that waits behind a frozen worker."""

from __future__ import annotations

import asyncio
import time

import grpc

from tests.faults.broker import Broker, observed
from tests.faults.clients import Client, connected
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.waiting import eventually

AT_ONCE = 40

EXPIRED_PART = 10
"""Of so many calls, one waits in the queue for too long with its bridge, and one without."""

LATE_SECONDS = 0.05
"""From a deadline to the status, as the client sees it."""

CLOSED_SECONDS = 0.25
"""From a deadline to the end of the connection to the model."""


def run(run: Run, outcome: Outcome) -> None:
    """Let as many deadlines pass as the dose."""
    with rig(run, workers=1) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    waiting = max(5, run.dose // EXPIRED_PART)
    async with observed(it.system.nats.url) as broker:
        await _over_work(it, run.dose - 2 * waiting, outcome)
        await _in_the_queue(it, waiting, broker, outcome, bridge_dies=False)
        await _in_the_queue(it, waiting, broker, outcome, bridge_dies=True)
        await eventually(broker.no_jobs, timeout=15)
    outcome.counts["calls"] = run.dose
    await it.check_heals(outcome)


async def _over_work(it: Rig, dose: int, outcome: Outcome) -> None:
    clients = [
        Client(it.ask(200, 25, think=it.random.choice((0.05, 3))), it.either(), timeout=it.random.uniform(0.1, 2))
        for _ in range(dose)
    ]
    room = asyncio.Semaphore(AT_ONCE)
    async with connected(it.system.target) as stub:

        async def one(client: Client, unary: bool) -> None:
            async with room:
                await (client.chat(stub) if unary else client.stream(stub))

        await asyncio.gather(*(one(client, i % 2 == 0) for i, client in enumerate(clients)))
    for client in clients:
        code = client.failure.code if client.failure else None
        outcome.check(code is grpc.StatusCode.DEADLINE_EXCEEDED, f"{client!r} had {client.timeout:.2f} s")
    await asyncio.sleep(0.5)  # the last sockets close within CLOSED_SECONDS, or are found open
    ledger = await it.check(outcome, clients)
    closed = []
    for client in clients:
        for attempt in ledger[client.ask.call]:
            outcome.check(attempt.ended == "closed", f"socket of {attempt.call} is {attempt.ended or 'open'}")
            closed.append(attempt.ended_at - client.began_at - client.timeout)
    late = [client.ended_at - client.began_at - client.timeout for client in clients]
    outcome.time("status after deadline p99", late, at_most=LATE_SECONDS, part=0.99)
    outcome.time("close after deadline p99", closed, at_most=CLOSED_SECONDS, part=0.99)


async def _in_the_queue(it: Rig, dose: int, broker: Broker, outcome: Outcome, *, bridge_dies: bool) -> None:
    """Expired work is never begun: the bridge has decided it, or, if it is dead, the worker sees it itself."""
    [worker], bridge = it.system.workers, it.system.bridges[0]
    clients = [Client(it.ask(10, 25), timeout=it.random.uniform(0.3, 1.0)) for _ in range(dose)]
    async with connected(bridge.target) as stub:
        worker.pause()
        try:
            reading = [asyncio.create_task(client.stream(stub)) for client in clients]
            await eventually(lambda: _has_jobs(broker, dose), timeout=0.3)
            if bridge_dies:
                bridge.kill()
            await asyncio.gather(*reading)
            ended = max(client.began_at + client.timeout for client in clients)
            await asyncio.sleep(max(0.0, ended - time.monotonic()) + 0.1)
        finally:
            worker.resume()
    if bridge_dies:
        bridge.start()
        await asyncio.to_thread(it.system.wait_ready)
    await eventually(broker.no_jobs, timeout=15)
    ledger = await it.check(outcome, clients)
    begun = [client.ask.call for client in clients if ledger[client.ask.call]]
    expected = grpc.StatusCode.UNAVAILABLE if bridge_dies else grpc.StatusCode.DEADLINE_EXCEEDED
    for client in clients:
        outcome.check(client.failure is not None and client.failure.code is expected, f"{client!r} in the queue")
    outcome.expect(f"expired and begun{' without a bridge' if bridge_dies else ''}", len(begun), 0)


async def _has_jobs(broker: Broker, at_least: int) -> bool:
    return await broker.open_jobs() >= at_least


ROW = Row(
    "deadline",
    "deadlines over longer work: the status comes with the deadline, the model is left, expired work is never begun",
    full=1000,
    short=100,
    run=run,
    controls=(Control("expiry", "expired and begun without a bridge", dose=50),),
)
