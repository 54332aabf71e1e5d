"""Workers stop themselves at each step of a job's completion, sleep past their lease, and wake up.

One worker for each step, and one that never stops. Streams that they run beside the one that reached the step freeze with it,
anywhere. Some workers wake up in the moment in which another takes over, before its model has said a word.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import psutil

from tests.e2e.callers import LEASE
from tests.faults.broker import check_sessions, observed
from tests.faults.clients import Client, connected, until
from tests.faults.patched import STOP_AT
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.faults.steps import ARM, STEPS
from tests.process import Running
from tests.waiting import eventually

CALLS = 28
"""Of each round."""

SETTINGS = {"QINGYU_CHAT__SLOTS": "4"}
"""So that every worker gets some of them."""

TOKENS, PER_SECOND = 30, 25

THINK = (0.1, 1.0)
"""Seconds before a model's first token. The longer one leaves room between a take-over and its first word."""

AWAKE_SECONDS = 1.5
"""From the first take-over until the last worker wakes up, at most."""


def run(run: Run, outcome: Outcome) -> None:
    """Freeze workers, in rounds, until as many as the dose were frozen."""
    with rig(run, workers=1, settings=SETTINGS) as it:
        for step in STEPS:
            it.add_worker(**{STOP_AT: step})
        it.system.wait_ready()
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    outcome.counts |= {"frozen": 0, "calls": 0, "taken over": 0}
    for step in STEPS:
        outcome.counts[step] = 0
    rounds = 0
    while outcome.counts["frozen"] < run.dose and rounds < 2 + run.dose // 4:
        await _round(it, outcome)
        rounds += 1
    outcome.check(outcome.counts["frozen"] >= run.dose, f"only {outcome.counts['frozen']:g} workers were frozen")
    for step in STEPS:
        outcome.check(outcome.counts[step] > 0, f"nobody was frozen at {step}")
    await it.check_heals(outcome)


async def _round(it: Rig, outcome: Outcome) -> None:
    stoppers = dict(zip(it.system.workers[1:], STEPS, strict=True))
    asks = [it.ask(TOKENS, PER_SECOND, it.random.choice(THINK)) for _ in range(CALLS)]
    clients = [Client(ask, it.either(), session=f"session-{ask.call}") for ask in asks]
    for worker in stoppers:
        os.kill(worker.pid, ARM)
    async with connected(it.system.target) as stub, observed(it.system.nats.url) as broker:
        began = time.monotonic()
        reading = [asyncio.create_task(client.stream(stub)) for client in clients]
        # Who is not there by then got no job that went so far.
        await until(lambda: all(_stopped(worker) for worker in stoppers), 4 + LEASE)
        frozen = [worker for worker in stoppers if _stopped(worker)]
        await until(lambda: time.monotonic() - began > LEASE, 2 * LEASE)
        await eventually(lambda: _taken_over(it, clients), timeout=3 * LEASE)
        await asyncio.gather(*(_wake(it, worker) for worker in frozen))
        await asyncio.gather(*reading)
        for client in clients:
            outcome.check(client.failure is None, f"{client!r}")
        try:
            await eventually(broker.no_jobs, timeout=15)
        except AssertionError:
            outcome.wrong.append(f"stuck: {await broker.open_jobs()} jobs are in the queue still")
        await check_sessions(broker, clients, outcome)
    ledger = await it.check(outcome, clients)
    outcome.counts["calls"] += len(clients)
    outcome.counts["frozen"] += len(frozen)
    outcome.counts["taken over"] += sum(len(ledger[client.ask.call]) > 1 for client in clients)
    for worker in frozen:
        outcome.counts[stoppers[worker]] += 1


async def _taken_over(it: Rig, clients: Sequence[Client]) -> bool:
    ledger = await asyncio.to_thread(it.model.ledger)
    return any(len(ledger[client.ask.call]) > 1 for client in clients)


async def _wake(it: Rig, worker: Running) -> None:
    await asyncio.sleep(it.random.choice((0.0, it.random.uniform(0, AWAKE_SECONDS))))
    os.kill(worker.pid, signal.SIGCONT)


def _stopped(worker: Running) -> bool:
    return bool(psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)


ROW = Row(
    "freeze",
    "workers frozen past their lease at each step of completion: fenced, the whole text, and each turn stored once",
    full=50,
    short=7,
    run=run,
    controls=(Control("fence", "DATA_LOSS", dose=14), Control("compare", "its answer 0 times", dose=14)),
)
