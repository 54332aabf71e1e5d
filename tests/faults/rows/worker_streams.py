"""A worker is killed in the middle of at least twenty streams, and started again at once; the streams go on at whoever is there.

Half of the calls are with a model that goes on exactly, half with one that repeats its last sentence.
"""

from __future__ import annotations

import asyncio

from tests.e2e.callers import LEASE, NOTICE_SECONDS
from tests.faults.clients import Client, Stub, connected, until
from tests.faults.ledger import overspent
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig

STREAMS = 44
"""Of each round; two workers share them."""

TOKENS, PER_SECOND = 90, 25

WINDOW = 32
"""Deltas that a worker may be ahead of a reader."""

SETTINGS = {"QINGYU_BUS__WINDOW_FRAMES": str(WINDOW)}

MOST_ROUNDS = 4
"""Times as many rounds as it should take."""


def run(run: Run, outcome: Outcome) -> None:
    """Kill a worker again and again, until as many streams as the dose were hit."""
    with rig(run, workers=2, settings=SETTINGS) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    hit: list[Client] = []
    streams: list[Client] = []
    kills = 0
    while len(hit) < run.dose and kills < MOST_ROUNDS * (1 + run.dose // (STREAMS // 2)):
        async with connected(it.system.target) as stub:
            clients = await _round(it, stub, outcome)
        kills += 1
        streams += clients
        ledger = await it.check(outcome, clients)
        now = [client for client in clients if any(attempt.ended == "closed" for attempt in ledger[client.ask.call])]
        outcome.check(len(now) >= STREAMS // 4, f"the kill hit {len(now)} streams of {STREAMS}")
        hit += now
        attempts = [attempt for client in clients for attempt in ledger[client.ask.call]]
        outcome.wrong += overspent(attempts, [client.received for client in clients], len(now), WINDOW)
        outcome.counts["wasted tokens"] = outcome.counts.get("wasted tokens", 0) + sum(
            attempt.wrote for attempt in attempts
        ) - sum(client.ask.tokens for client in clients)  # fmt: skip
    await it.check_heals(outcome)
    outcome.counts |= {"streams": len(streams), "kills": kills, "hit": len(hit)}
    outcome.check(len(hit) >= run.dose, f"only {len(hit)} streams were hit")
    outcome.time("silence", (client.longest_silence for client in hit), at_most=LEASE + NOTICE_SECONDS)


async def _round(it: Rig, stub: Stub, outcome: Outcome) -> list[Client]:
    clients = [Client(it.ask(TOKENS, PER_SECOND, think=0.1), it.either()) for _ in range(STREAMS)]
    reading = [asyncio.create_task(client.stream(stub)) for client in clients]
    outcome.check(await until(lambda: all(c.text or c.ended_at for c in clients), 20), "streams did not begin")
    await asyncio.sleep(it.random.uniform(0.1, 1.5))  # the moment of the fault, not a wait for something
    victim = it.random.choice(it.system.workers)
    victim.kill()
    victim.start()
    await asyncio.gather(*reading)
    for client in clients:
        outcome.check(client.failure is None, f"{client!r}")
    return clients


ROW = Row(
    "worker-streams",
    "kill -9 of a worker in the middle of streams: each text is whole, with one final chunk, and written once",
    full=200,
    short=40,
    run=run,
    controls=(Control("seam", "repeat", dose=8, in_test=True),),
)
