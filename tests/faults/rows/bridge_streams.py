"""A bridge is killed in the middle of at least twenty streams; their callers go on at another one with `x-resume-from`."""

from __future__ import annotations

import asyncio
import time

from tests.e2e.callers import LEASE, NOTICE_SECONDS
from tests.faults.clients import Client, connected, until
from tests.faults.ledger import overspent
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig

STREAMS = 25
"""Of each round, at the bridge that dies; and some at the other, which must not notice."""

BESIDE = 5

TOKENS, PER_SECOND = 90, 25

WINDOW = 32
"""Deltas that a worker may be ahead of a reader."""

SETTINGS = {"QINGYU_BUS__WINDOW_FRAMES": str(WINDOW)}


def run(run: Run, outcome: Outcome, *, worker_too: bool = False) -> None:
    """Kill bridges in turn, until as many streams as the dose were interrupted."""
    with rig(run, workers=2 if worker_too else 1, bridges=2, settings=SETTINGS) as it:
        asyncio.run(_run(it, run, outcome, worker_too))


async def _run(it: Rig, run: Run, outcome: Outcome, worker_too: bool) -> None:
    resumed: list[Client] = []
    waits: list[float] = []
    rounds = 0
    while len(resumed) < run.dose and rounds < 2 + run.dose // 10:
        resumed += await _round(it, outcome, rounds % 2, waits, worker_too=worker_too)
        rounds += 1
    outcome.check(len(resumed) >= run.dose, f"only {len(resumed)} streams were interrupted")
    await it.check_heals(outcome)
    outcome.counts |= {"interrupted": len(resumed), "kills": rounds}
    outcome.time("silence", (client.longest_silence for client in resumed), at_most=LEASE + NOTICE_SECONDS)
    outcome.time("resumed p50", waits, part=0.5)


async def _round(it: Rig, outcome: Outcome, dies: int, waits: list[float], *, worker_too: bool) -> list[Client]:
    dying, living = it.system.bridges[dies], it.system.bridges[1 - dies]
    async with connected(dying.target) as stub, connected(living.target) as other:
        clients = [Client(it.ask(TOKENS, PER_SECOND, think=0.1), it.either()) for _ in range(STREAMS)]
        beside = [Client(it.ask(TOKENS, PER_SECOND, think=0.1), it.either()) for _ in range(BESIDE)]
        reading = [asyncio.create_task(client.stream(stub)) for client in clients]
        undisturbed = [asyncio.create_task(client.stream(other)) for client in beside]
        everybody = [*clients, *beside]
        outcome.check(await until(lambda: all(c.text or c.ended_at for c in everybody), 20), "streams did not begin")
        await asyncio.sleep(it.random.uniform(0.1, 1.5))  # the moment of the fault, not a wait for something
        dying.kill()
        victim = it.random.choice(it.system.workers)
        if worker_too:
            victim.kill()
            victim.start()
        await asyncio.gather(*reading)
        broken = [client for client in clients if client.failure is not None]
        for client in broken:
            outcome.check(not client.finals, f"a final chunk before the end: {client!r}")
        again_at = time.monotonic()
        had = {client: len(client.arrivals) for client in broken}
        await asyncio.gather(*(client.stream(other) for client in broken))
        waits += [c.arrivals[had[c]] - again_at for c in broken if len(c.arrivals) > had[c]]
        await asyncio.gather(*undisturbed)
    dying.start()
    for client in everybody:
        outcome.check(client.failure is None, f"{client!r}")
    ledger = await it.check(outcome, everybody)
    attempts = [attempt for client in everybody for attempt in ledger[client.ask.call]]
    cut = sum(attempt.ended == "closed" for attempt in attempts)
    outcome.check(cut > 0 if worker_too else cut == 0, f"requests to the model that were cut: {cut}")
    outcome.counts["taken over"] = outcome.counts.get("taken over", 0) + cut
    outcome.wrong += overspent(attempts, [client.received for client in everybody], cut, WINDOW)
    await asyncio.to_thread(it.system.wait_ready)
    return broken


ROW = Row(
    "bridge-streams",
    "kill -9 of a bridge in the middle of streams: read on at another bridge, no token is missing and none comes twice",
    full=200,
    short=40,
    run=run,
    controls=(Control("resume", "repeat", dose=5, in_test=True),),
)
