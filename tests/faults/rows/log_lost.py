"""The stream of all logs is deleted and made anew while calls run.

Who was reading misses nothing: what was not stored is said again. Who comes later and wants the whole text is told that it is
lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc

from qingyu_ai.bus import topology
from tests.e2e.callers import NOTICE_SECONDS
from tests.faults.broker import Broker, observed
from tests.faults.clients import Client, connected, until
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.waiting import eventually

PER_SECOND = 25

THINK = 2.0
"""Seconds in which a call has no text yet."""

LEASE = 8.0

SETTINGS = {"QINGYU_BUS__LEASE_SECONDS": f"{LEASE:g}"}
"""As by default, longer than a reader of the log takes to notice that its consumer is gone (5 s, which no setting changes)."""


def run(run: Run, outcome: Outcome) -> None:
    """Lose the log under as many calls that have text as the dose, and as many each of streams and chats that have none."""
    with rig(run, workers=1, settings=SETTINGS) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    with_text = [Client(it.ask(100, PER_SECOND), it.either()) for _ in range(run.dose)]
    silent = [Client(it.ask(20, PER_SECOND, think=THINK), it.either()) for _ in range(run.dose)]
    unary = [Client(it.ask(20, PER_SECOND, think=THINK), it.either()) for _ in range(run.dose)]
    everybody = [*with_text, *silent, *unary]
    async with connected(it.system.target) as stub, observed(it.system.nats.url) as broker:
        reading = [asyncio.create_task(client.stream(stub)) for client in [*with_text, *silent]]
        reading += [asyncio.create_task(client.chat(stub)) for client in unary]
        outcome.check(await until(lambda: all(client.text for client in with_text), 10), "streams did not begin")
        await asyncio.sleep(it.random.uniform(0, 0.5))  # the moment of the fault, not a wait for something
        lost_at = asyncio.get_running_loop().time()
        had = {client: len(client.text) for client in with_text}
        await lose(broker, it.random.uniform(0.2, 1.0))
        joining = [_again(client) for client in with_text]
        await asyncio.gather(*reading, *(client.stream(stub) for client in joining))
        outcome.times["all ended"] = asyncio.get_running_loop().time() - lost_at
        await eventually(broker.no_jobs, timeout=15)
    await it.check(outcome, [*everybody, *joining])
    for client in joining:
        code = client.failure.code if client.failure else grpc.StatusCode.OK
        outcome.check(code is grpc.StatusCode.DATA_LOSS, f"{client!r}, which came for the whole text")
    for client in [*silent, *unary]:
        outcome.check(client.failure is None, f"{client!r}, which had no text")
    for client in with_text:
        code = client.failure.code if client.failure else grpc.StatusCode.OK
        outcome.check(code in (grpc.StatusCode.OK, grpc.StatusCode.DATA_LOSS), f"{client!r}, which had text")
        outcome.check(len(client.text) >= had[client], f"{client!r} had {had[client]}")
    ends = Counter(client.failure.code.name if client.failure else "whole" for client in with_text)
    outcome.counts |= {
        "came later": len(joining),
        "with text": len(with_text),
        "without": len(silent) + len(unary),
        **ends,
    }
    # A reader that missed something is told by the next frame, or asks the record after a lease.
    lost = [client for client in with_text if client.failure]
    outcome.time("data loss known", (c.ended_at - lost_at for c in lost), at_most=LEASE + NOTICE_SECONDS)
    await it.check_heals(outcome)


async def lose(broker: Broker, seconds: float) -> None:
    """Delete the log, and make it anew some seconds later."""
    config = (await broker.js.stream_info(topology.LOG)).config
    await broker.js.delete_stream(topology.LOG)
    await asyncio.sleep(seconds)  # the length of the fault
    await broker.js.add_stream(config)


def _again(client: Client) -> Client:
    """Another reader of the same call, who has nothing of it."""
    again = Client(client.ask, client.model)
    again.request_id = client.request_id
    return again


ROW = Row(
    "log-lost",
    "the log is deleted and made anew under running calls: whole, or DATA_LOSS where text is missing",
    full=20,
    short=5,
    run=run,
    controls=(
        Control("resend", "which had", dose=5),
        Control("one-log", "gap", dose=5),
    ),
)
