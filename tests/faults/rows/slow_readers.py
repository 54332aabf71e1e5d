"""Clients that stop reading beside as many that read: what the bridge holds for them, and what the others notice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from bench.processes import resident_bytes
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.e2e import counting_worker
from tests.e2e.callers import COUNTING, LEASE, counting
from tests.e2e.counting_worker import STOPS
from tests.e2e.test_slow_readers import SMALL_WINDOW
from tests.faults.clients import Client, connected, until
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.faults.tokens import Ask

KIB = 1024
MIB = 1024 * KIB

WINDOW_BYTES = 64 * KIB
"""What the bridge holds for a reader, and the frame that reached the limit; a worker has the default."""

DELTAS, PADDING = 300, 1000
"""0.9 MiB for each that stops."""

BASE, EACH = 8 * MIB, 4 * WINDOW_BYTES
"""What the bridge's memory may grow by: for the allocator and the connections; and for each that stops a window, the frame that
reached its limit, and both once more as the message that gRPC cannot get rid of."""

CONNECTION = 20
"""Calls of one connection."""

NOTICE_SECONDS = 1.0
"""What the normal ones may take longer."""


class Counted(Client):
    """A call to a counting worker."""

    def __init__(self, **context: float) -> None:
        super().__init__(Ask("沈0", 1, 0), timeout=100)
        self._context = context

    @property
    def request(self) -> ai.ChatRequest:
        """What is sent."""
        return counting(self._context, self.request_id)

    @property
    def whole(self) -> bool:
        """Whether all of it came, and nothing else."""
        said_by = int(self.text.partition(":")[0] or 0)
        deltas, padding = int(self._context["deltas"]), int(self._context.get("padding", 0))
        right = counting_worker.spoken(said_by, deltas, padding)
        return (self.text, self.finals, self.final_last) == (right, 1, True)


def run(run: Run, outcome: Outcome) -> None:
    """Have as many stop as the dose, and run as many beside them."""
    settings = {"QINGYU_BUS__WINDOW_BYTES": str(WINDOW_BYTES)}
    counting_chat = replace(COUNTING, env={"QINGYU_BUS__WINDOW_BYTES": str(256 * KIB), "QINGYU_CHAT__SLOTS": "1000"})
    with rig(run, workers=1, settings=settings, chat=counting_chat) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    bridge, [worker] = it.system.bridges[0], it.system.workers
    alone = await _normal(it, run.dose, outcome)
    before = highest = resident_bytes(bridge.pid)

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, resident_bytes(bridge.pid))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    stopped = [Counted(deltas=DELTAS, padding=PADDING) for _ in range(run.dose)]
    for client in stopped:
        client.may_read.clear()
    reading = asyncio.create_task(_read(it, stopped))
    outcome.check(await until(lambda: all(c.text or c.ended_at for c in stopped), 40), "the slow ones did not begin")
    # While the worker says what nobody reads, it is busy with that: a load like any other, which is noted and not judged.
    filling = await _normal(it, run.dose, outcome)
    # A worker that hears no credit goes on after a lease.
    said = await until(lambda: worker.log.count(f'"{STOPS}"') == 3 * run.dose, 20 + 2 * LEASE)
    outcome.check(said, "the worker did not say everything into the log")
    beside = await _normal(it, run.dose, outcome)
    outcome.check(all(len(c.arrivals) == 1 and not c.ended_at for c in stopped), "a slow reader did not stop")
    highest = max(highest, resident_bytes(bridge.pid))
    growth, allowed = highest - before, BASE + EACH * run.dose
    outcome.check(growth <= allowed, f"the bridge grew by {growth / MIB:.1f} MiB, {allowed / MIB:.1f} allowed")
    for client in stopped:
        client.may_read.set()
    await reading
    watching.cancel()
    outcome.check(all(client.whole for client in stopped), "a slow reader did not get everything in the end")
    outcome.counts |= {
        "stopped": run.dose,
        "MiB grown": round(growth / MIB, 1),
        "MiB allowed": round(allowed / MIB, 1),
        "MiB left waiting": round(run.dose * DELTAS * (PADDING * 3 + 4) / MIB),
    }
    outcome.time("stream p99 before", alone, part=0.99)
    outcome.time("stream p99 while they fill", filling, part=0.99)
    outcome.time("stream p99 during", beside, at_most=max(alone) + NOTICE_SECONDS, part=0.99)
    await asyncio.to_thread(it.system.wait_ready)
    await _normal(it, 5, outcome)


async def _normal(it: Rig, streams: int, outcome: Outcome) -> list[float]:
    clients = [Counted(deltas=40, per_second=40) for _ in range(streams)]
    await _read(it, clients)
    outcome.check(all(client.whole for client in clients), "a normal reader did not get everything")
    return [client.ended_at - client.began_at for client in clients]


async def _read(it: Rig, clients: Sequence[Client]) -> None:
    async def together(some: Sequence[Client]) -> None:
        async with connected(it.system.target, SMALL_WINDOW) as stub:
            await asyncio.gather(*(client.stream(stub) for client in some))

    await asyncio.gather(*(together(clients[i : i + CONNECTION]) for i in range(0, len(clients), CONNECTION)))


ROW = Row(
    "slow-readers",
    "clients that stop reading: the bridge holds a window of each, the others do not notice, nothing is missing later",
    full=200,
    short=30,
    run=run,
    controls=(Control("windows", "the bridge grew by", dose=30),),
)
