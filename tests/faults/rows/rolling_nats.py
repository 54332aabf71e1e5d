"""All three servers of a NATS cluster are restarted one after the other, while callers ask for everything again.

Each turn of a session is asked for until it goes well, and then once more at the other bridge, always under its one id. So it is
stored once, whatever became of the answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.faults.broker import check_sessions, observed
from tests.faults.clients import Client, Stub, connected
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.nats_cluster import NatsCluster
from tests.waiting import eventually

SESSIONS = 8

TURNS_KEPT = 500
"""Of each session, so that none is forgotten before it is counted."""

SETTINGS = {
    "QINGYU_BUS__PATIENCE_SECONDS": "20",
    "QINGYU_BUS__LEASE_SECONDS": "10",
    "QINGYU_BUS__ACK_WAIT_SECONDS": "10",
    "QINGYU_CHAT__SESSION_MESSAGES": str(2 * TURNS_KEPT),
    "QINGYU_CHAT__SESSION_MAX_BYTES": str(1024 * 1024),
}
"""The defaults: a vote of the servers takes up to nine seconds."""

TOKENS, PER_SECOND, THINK = 8, 40, 0.2

TRIES = 30
"""Of one turn, with as many pauses, before it counts as lost."""

TIMEOUT = 60.0


@dataclass
class _Load:
    it: Rig
    stubs: list[Stub]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    turns: list[Client] = field(default_factory=list)
    again: int = 0


def run(run: Run, outcome: Outcome) -> None:
    """Restart all servers as often as the dose."""
    cluster = NatsCluster()
    with rig(run, workers=2, bridges=2, settings=SETTINGS, nats=cluster) as it:
        asyncio.run(_run(it, run, outcome, cluster))


async def _run(it: Rig, run: Run, outcome: Outcome, cluster: NatsCluster) -> None:
    async with (
        connected(it.system.bridges[0].target) as first,
        connected(it.system.bridges[1].target) as second,
    ):
        load = _Load(it, [first, second])
        talking = [asyncio.create_task(_talk(load, i, outcome)) for i in range(SESSIONS)]
        restarts = 0
        for _ in range(run.dose):
            for node in cluster.nodes:
                await asyncio.to_thread(cluster.wait_whole)
                if run.short:
                    await asyncio.to_thread(cluster.kill, node)
                else:
                    cluster.lame_duck(node)
                    await asyncio.to_thread(cluster.wait_gone, node)
                await asyncio.to_thread(cluster.start_node, node)
                restarts += 1
        load.over.set()
        await asyncio.gather(*talking)
    async with observed(cluster.servers[0]) as broker:
        await eventually(broker.no_jobs, timeout=30)
        await check_sessions(broker, load.turns, outcome)
    ledger = await it.check(outcome, load.turns)
    outcome.counts |= {"restarts": restarts, "turns": len(load.turns), "failed and asked again": load.again}
    outcome.counts["asked of the model again"] = sum(len(ledger[c.ask.call]) - 1 for c in load.turns)
    outcome.time("turn", (client.ended_at - client.began_at for client in load.turns))
    await it.check_heals(outcome)


async def _talk(load: _Load, number: int, outcome: Outcome) -> None:
    """Ask for one turn after another, and for each of them again."""
    while not load.over.is_set():
        ask = load.it.ask(TOKENS, PER_SECOND, THINK)
        client = Client(ask, load.it.either(), session=f"session-{number}", timeout=TIMEOUT)
        load.turns.append(client)
        for attempt in range(TRIES):
            await client.chat(load.stubs[(number + attempt) % 2])
            if client.failure is None:
                break
            load.again += 1
            await asyncio.sleep(client.failure.retry_seconds or 1.0)
        outcome.check(client.failure is None, f"after {TRIES} tries: {client!r}")
        again = Client(ask, client.model, session=client.session, timeout=TIMEOUT)
        again.request_id = client.request_id
        await again.chat(load.stubs[1 - number % 2])
        outcome.check(
            again.failure is not None or again.text == client.text, f"another answer the second time: {again!r}"
        )


ROW = Row(
    "rolling-nats",
    "all three NATS servers restarted in turn while callers repeat every request: all complete, and each turn is stored once",
    full=3,
    short=0,
    run=run,
    controls=(Control("identity", "another answer the second time", dose=1),),
)
