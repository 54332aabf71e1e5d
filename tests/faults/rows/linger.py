"""Lines to a bridge are cut in the middle of streams that linger. Half of the callers come back, at another bridge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.faults.broker import observed
from tests.faults.clients import Client, Stub, connected, until
from tests.faults.cut_line import Line, line_to
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.waiting import eventually

LINGER_SECONDS = 2.0

TOKENS, PER_SECOND = 150, 25
"""Much longer than a linger, so that its end finds who came back in the middle of a text."""

NOTICE_SECONDS = 1.5
"""From the end of a linger to the end of the connection to the model: half a second is for asking other bridges."""


class _Lingering(Client):
    """A call that goes on for a while without its caller."""

    metadata = (("x-linger-ms", str(int(LINGER_SECONDS * 1000))),)


def run(run: Run, outcome: Outcome) -> None:
    """Cut the lines of as many streams as the dose."""
    with rig(run, workers=1, bridges=2) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    clients = [_Lingering(it.ask(TOKENS, PER_SECOND), it.either()) for _ in range(run.dose)]
    back, gone = clients[::2], clients[1::2]
    async with (
        line_to(it.system.bridges[0].target) as line,
        connected(line.target) as stub,
        connected(it.system.bridges[1].target) as other,
        observed(it.system.nats.url) as broker,
    ):
        cut_at = await _cut(it, line, stub, clients, outcome)
        waits = [it.random.uniform(0, LINGER_SECONDS * 0.7) for _ in back]
        await asyncio.gather(*(_come_back(client, other, wait) for client, wait in zip(back, waits, strict=True)))
        await eventually(broker.no_jobs, timeout=15)
    for client in back:
        outcome.check(client.failure is None, f"came back: {client!r}")
    ledger = await it.check(outcome, clients)
    for client in clients:
        outcome.check(len(ledger[client.ask.call]) == 1, f"asked {len(ledger[client.ask.call])} times: {client!r}")
    closed = []
    for client in gone:
        for attempt in ledger[client.ask.call]:
            outcome.check(
                attempt.ended == "closed", f"nobody came back, and its request is {attempt.ended}: {client!r}"
            )
            closed.append(attempt.ended_at - cut_at)
    early = [seconds for seconds in closed if seconds < LINGER_SECONDS]
    outcome.check(not early, f"closed before the linger was over: {[round(seconds, 2) for seconds in early]}")
    outcome.counts |= {"cut": len(clients), "came back": len(back), "did not": len(gone), "closed": len(closed)}
    outcome.time("closed after", closed, at_most=LINGER_SECONDS + NOTICE_SECONDS)
    await it.check_heals(outcome)


async def _cut(it: Rig, line: Line, stub: Stub, clients: Sequence[Client], outcome: Outcome) -> float:
    """Cut the line once all of them have begun.

    Returns:
        When that was.
    """
    reading = [asyncio.create_task(client.stream(stub)) for client in clients]
    outcome.check(await until(lambda: all(c.text or c.ended_at for c in clients), 20), "streams did not begin")
    await asyncio.sleep(it.random.uniform(0.1, 1.0))  # the moment of the fault, not a wait for something
    cut_at = time.monotonic()
    line.cut()
    await asyncio.gather(*reading)
    for client in clients:
        outcome.check(client.failure is not None and not client.finals, f"not cut: {client!r}")
    return cut_at


async def _come_back(client: Client, stub: Stub, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await client.stream(stub)


ROW = Row(
    "linger",
    "lines cut under streams that linger: whole for who comes back to another bridge, and over after the linger for who does not",
    full=30,
    short=6,
    run=run,
    controls=(
        Control("held", "came back", dose=6),
        Control("linger", "before the linger was over", dose=6),
    ),
)
