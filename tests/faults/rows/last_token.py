"""A worker is killed when the last token is said, and the model has not said yet that it was the last."""

from __future__ import annotations

import asyncio

from tests.faults.clients import Client, connected, until
from tests.faults.ledger import delivered
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.faults.upstream import PREFIX, RESTART

TOKENS, PER_SECOND = 12, 50

LINGER = 1.5
"""Seconds in which the model says nothing more, in each of its requests."""


def run(run: Run, outcome: Outcome) -> None:
    """Run as many streams as the dose, half of them with each way of going on."""
    with rig(run, workers=1) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    [worker] = it.system.workers
    clients = [Client(it.ask(TOKENS, PER_SECOND, linger=LINGER), PREFIX if i % 2 else RESTART) for i in range(run.dose)]
    async with connected(it.system.target) as stub:
        reading = [asyncio.create_task(client.stream(stub)) for client in clients]
        there = await until(lambda: delivered(c.received for c in clients) == TOKENS * run.dose, LINGER + 5)
        outcome.check(there and not any(client.finals for client in clients), "the last tokens came too late")
        worker.kill()
        worker.start()
        await asyncio.gather(*reading)
    for client in clients:
        outcome.check(client.failure is None, f"{client!r} asked of {client.model}")
    ledger = await it.check(outcome, clients)
    outcome.counts |= {"streams": len(clients), "whole": sum(client.failure is None for client in clients)}
    outcome.expect("asked again", sum(len(ledger[c.ask.call]) > 1 for c in clients), len(clients))
    await it.check_heals(outcome)


ROW = Row(
    "last-token",
    "kill -9 of a worker between the last token and the word that it was the last: the stream ends well",
    full=40,
    short=6,
    run=run,
    controls=(Control("seam", "repeat", dose=6),),
)
