"""What callers are told when there is no worker, no broker, or no room; and how soon it works again, without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc

from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.faults.clients import Client, Stub, connected, until
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import HEAL_SECONDS, Rig, rig
from tests.nats_process import NatsProcess

REFUSED_SECONDS = 0.05
"""The p99 of a refusal."""

EVERY = 0.05
"""Between two calls of the outage."""

TIMEOUT = 3.0
"""Of a call that should be refused: long enough to tell a refusal from a wait."""

OUTAGE_SECONDS, SHORT_OUTAGE_SECONDS = 120.0, 5.0

MIB = 1024 * 1024

LARGE = 50_000
"""Characters of the calls that fill the queue: 150 kB each."""

SETTINGS = {"QINGYU_BUS__QUEUE_BYTES": str(MIB), "QINGYU_CHAT__SLOTS": "1"}


def run(run: Run, outcome: Outcome) -> None:
    """Have as many calls refused as the dose, in each of the three ways."""
    with rig(run, workers=0, settings=SETTINGS) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    async with connected(it.system.target) as stub:
        await _refused(it, stub, run.dose, outcome, "no worker", grpc.StatusCode.UNAVAILABLE)
        it.add_worker()
        await _heals(it, stub, outcome, "worker back")

        nats = it.system.nats
        assert isinstance(nats, NatsProcess), "a cluster has a row of its own"
        outage = SHORT_OUTAGE_SECONDS if run.short else OUTAGE_SECONDS
        nats.kill()
        began = time.monotonic()
        await until(lambda: bool(it.system.bridges[0].unready), 2)
        await _refused(it, stub, run.dose, outcome, "no NATS", grpc.StatusCode.UNAVAILABLE, outage)
        outcome.times["outage"] = time.monotonic() - began
        await asyncio.to_thread(nats.restart)
        await _heals(it, stub, outcome, "NATS back")

        await _full(it, stub, run.dose, outcome)
    await asyncio.to_thread(it.system.wait_ready)
    await it.check_heals(outcome)


async def _refused(
    it: Rig,
    stub: Stub,
    dose: int,
    outcome: Outcome,
    name: str,
    code: grpc.StatusCode,
    seconds: float = 0.0,
    question: Callable[[Client], Client] = lambda client: client,
) -> None:
    """Call until as many were refused as the dose, and for so many seconds."""
    took: list[float] = []
    began = time.monotonic()
    while len(took) < dose or time.monotonic() - began < seconds:
        for call in (Client.chat, Client.stream):
            client = question(Client(it.ask(5, 100), timeout=TIMEOUT))
            await call(client, stub)
            took.append(client.ended_at - client.began_at)
            failure = client.failure
            outcome.check(failure is not None and failure.code is code, f"{name}: {client!r}")
            outcome.check(failure is None or failure.retry_seconds is not None, f"{name}: no RetryInfo: {client!r}")
        await asyncio.sleep(EVERY)
    outcome.counts[f"{name} refused"] = len(took)
    outcome.time(f"{name} p99", took, at_most=REFUSED_SECONDS, part=0.99)


async def _heals(it: Rig, stub: Stub, outcome: Outcome, name: str) -> None:
    """Call until it works; no process is started again."""
    began = time.monotonic()
    while True:
        client = Client(it.ask(5, 100), timeout=TIMEOUT)
        await client.stream(stub)
        took = time.monotonic() - began
        if client.failure is None:
            break
        if took > HEAL_SECONDS:
            outcome.wrong.append(f"{name}: does not heal in {HEAL_SECONDS:g} s: {client!r}")
            break
        await asyncio.sleep(EVERY)
    outcome.times[name] = took


async def _full(it: Rig, stub: Stub, dose: int, outcome: Outcome) -> None:
    """Fill the queue behind the only slot, be refused, and let it go."""
    blocker = Client(it.ask(5, 100, think=60), timeout=60)
    blocks = asyncio.create_task(blocker.stream(stub))
    await until(lambda: bool(it.model.ledger()[blocker.ask.call]), 10)
    fillers = [_Large(Client(it.ask(5, 100), timeout=60)) for _ in range(MIB // (3 * LARGE) + 2)]
    waiting: list[asyncio.Task[None]] = []
    for filler in fillers:
        waiting.append(asyncio.create_task(filler.chat(stub)))
        await asyncio.sleep(0.05)  # they are to be refused or stored one after another
    await until(lambda: any(filler.ended_at for filler in fillers), 10)
    refused = [filler for filler in fillers if filler.ended_at]
    outcome.check(0 < len(refused) < len(fillers), f"{len(refused)} of {len(fillers)} fillers were refused")
    await _refused(
        it,
        stub,
        dose,
        outcome,
        "queue full",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        question=lambda client: _Large(client),
    )
    blocker.cancel()
    await asyncio.gather(blocks, *waiting)
    stored = [filler for filler in fillers if filler not in refused]
    outcome.counts["stored"] = len(stored)
    outcome.check(all(filler.failure is None for filler in stored), f"stored, and not answered: {stored}")
    await it.check(outcome, stored)
    await _heals(it, stub, outcome, "queue empty")


class _Large(Client):
    """A call whose question is long."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.ask, client.model, timeout=client.timeout)

    @property
    def request(self) -> ai.ChatRequest:
        """What is sent."""
        request = super().request
        request.context["背景"] = "字" * LARGE
        return request


ROW = Row(
    "no-nats",
    "no worker, no NATS, no room: UNAVAILABLE or RESOURCE_EXHAUSTED at once with RetryInfo, and it heals by itself",
    full=200,
    short=30,
    run=run,
    controls=(Control("presence", "no worker: ", dose=4),),
)
