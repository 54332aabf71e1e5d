"""After the log was made anew, the only worker dies under streams, and comes back later than a lease."""

from __future__ import annotations

import asyncio

from tests.e2e.callers import LEASE
from tests.faults.broker import observed
from tests.faults.clients import Client, connected, until
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig

from .log_lost import lose

AWAY_SECONDS = 2 * LEASE

TOKENS, PER_SECOND = 50, 25


def run(run: Run, outcome: Outcome) -> None:
    """Run as many streams as the dose."""
    with rig(run, workers=1) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    [worker], bridge = it.system.workers, it.system.bridges[0]
    async with observed(it.system.nats.url) as broker:
        await lose(broker, 0)
        outcome.check(
            await until(lambda: bridge.said('"log_reader_mended"'), 10), "the bridge has not found the new log"
        )
    clients = [Client(it.ask(TOKENS, PER_SECOND), it.either()) for _ in range(run.dose)]
    async with connected(it.system.target) as stub:
        reading = [asyncio.create_task(client.stream(stub)) for client in clients]
        outcome.check(await until(lambda: all(c.text or c.ended_at for c in clients), 20), "streams did not begin")
        worker.kill()
        await asyncio.sleep(AWAY_SECONDS)  # the length of the fault
        worker.start()
        await asyncio.gather(*reading)
    for client in clients:
        outcome.check(client.failure is None, f"{client!r}")
    await it.check(outcome, clients)
    outcome.counts |= {"streams": len(clients), "whole": sum(client.failure is None for client in clients)}
    await it.check_heals(outcome)


ROW = Row(
    "log-renewed",
    "a worker that dies after the log was made anew: its streams go on when it is back",
    full=20,
    short=0,
    run=run,
    controls=(Control("seam", "repeat", dose=4),),
)
