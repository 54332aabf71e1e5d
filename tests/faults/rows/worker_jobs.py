"""A random worker is killed every half second while unary chats run whose turns go into sessions.

The workers are a little slower between the steps of a job's completion, so that many kills fall between two of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from qingyu_ai.bus import topology
from tests.faults.broker import check_sessions, observed
from tests.faults.clients import Client, Stub, connected
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, patched, rig
from tests.faults.upstream import PREFIX
from tests.process import Running
from tests.waiting import eventually

WORKERS = 3

TURNS = 5
"""Of each session; two of them are asked at once, so that they wait for each other."""

SESSIONS_AT_ONCE = 40

KILL_EVERY = 0.5

TOKENS, PER_SECOND, THINK = 8, 40, 0.4

STRETCH = "0.05"

TIMEOUT = 120.0


def run(run: Run, outcome: Outcome) -> None:
    """Run the dose as jobs; a kill for each 25 of them (a short run: for each 18)."""
    with rig(run, workers=WORKERS, chat=patched(FAULTS_STRETCH=STRETCH)) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    sessions = [
        [
            Client(it.ask(TOKENS, PER_SECOND, THINK), PREFIX, session=f"session-{s}", timeout=TIMEOUT)
            for _ in range(TURNS)
        ]
        for s in range(run.dose // TURNS)
    ]
    jobs = [client for session in sessions for client in session]
    kills = max(1, run.dose // (18 if run.short else 25))
    room = asyncio.Semaphore(SESSIONS_AT_ONCE)
    refused: Counter[str] = Counter()
    async with connected(it.system.target) as stub, observed(it.system.nats.url) as broker:
        talking = [asyncio.create_task(_talk(room, stub, session, refused)) for session in sessions]
        done = await _kill(it, kills, jobs)
        await asyncio.gather(*talking)
        outcome.counts |= {"jobs": len(jobs), "kills": done, "refused first": refused.total()}
        outcome.check(done == kills, f"only {done} of {kills} kills before the last job ended")
        lost = [client for client in jobs if client.failure is not None]
        outcome.expect("lost", len(lost), 0)
        outcome.wrong += [repr(client) for client in lost]
        try:
            await eventually(broker.no_jobs, timeout=15)
        except AssertionError:
            outcome.wrong.append(f"stuck: {await broker.open_jobs()} jobs are in the queue still")
        await check_sessions(broker, jobs, outcome)
        outcome.expect("put aside", await broker.messages(topology.DEAD), 0)
    ledger = await it.check(outcome, jobs)
    outcome.counts["run again"] = sum(len(ledger[client.ask.call]) - 1 for client in jobs)
    outcome.time("job", (client.ended_at - client.began_at for client in jobs), part=0.99)
    await it.check_heals(outcome)


async def _talk(room: asyncio.Semaphore, stub: Stub, session: list[Client], refused: Counter[str]) -> None:
    async with room:
        for i in range(0, len(session), 2):
            await asyncio.gather(*(_chat(stub, client, refused) for client in session[i : i + 2]))


async def _chat(stub: Stub, client: Client, refused: Counter[str]) -> None:
    """Chat; again when the bridge saw no worker, which is said before a call is accepted."""
    await client.chat(stub)
    while client.failure and client.failure.fault and client.failure.fault.reason == "NO_WORKER":
        refused["NO_WORKER"] += 1
        await asyncio.sleep(client.failure.retry_seconds or 1.0)
        await client.chat(stub)


async def _kill(it: Rig, kills: int, jobs: list[Client]) -> int:
    """Kill a worker that serves, every half second, for as long as there are jobs."""
    done = 0
    while done < kills and not all(client.ended_at for client in jobs):
        await asyncio.sleep(KILL_EVERY)
        serving: list[Running] = [w for w in it.system.workers if w.said('"worker_started"')]
        if serving:
            victim = it.random.choice(serving)
            victim.kill()
            victim.start()
            done += 1
    return done


ROW = Row(
    "worker-jobs",
    "kill -9 of workers under unary jobs: no job is lost or stuck, and each turn is stored once",
    full=1000,
    short=150,
    run=run,
    controls=(Control("applied", "its turn is stored 2 times", dose=150),),
)
