"""Jobs that are bad for their worker, among many that are not: they raise, hang it or kill it, whoever has them.

Workers are started again when they die, as a supervisor does. In the end the poison goes, and one of these jobs is tried again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from structlog.testing import capture_logs

from qingyu_ai.bus import headers as wire
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.dead import DeadLetters, Letter
from qingyu_ai.bus.records import Records
from qingyu_ai.settings import Bus as BusSettings
from tests.faults.broker import observed
from tests.faults.clients import Client, Stub, connected
from tests.faults.patched import POISON
from tests.faults.poison import KINDS, RAISE, Poisoned
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, patched, rig
from tests.process import Running
from tests.waiting import eventually

WORKERS = 3

INNOCENTS_TO_ONE = 33
"""For each poisoned job: 30 among 1,000. A short run has 20 for each."""

AT_ONCE = 60

TOKENS, PER_SECOND = 30, 30
"""Of each job: a second. A poisoned one says a little more each time that it is tried, and never so much."""

ATTEMPTS_SHORT = "3"
"""One more than what makes a suspect."""

WATCHDOG_SECONDS = "1.5"

TIMEOUT = 400.0


def run(run: Run, outcome: Outcome) -> None:
    """Run as many poisoned jobs as the dose, a third of each kind."""
    settings = {"QINGYU_BUS__ATTEMPTS": ATTEMPTS_SHORT} if run.short else {}
    with tempfile.TemporaryDirectory(prefix="qingyu-poison-") as folder:
        poison = Path(folder) / "poison"
        poison.touch()
        # Only the workers' watchdogs are quick.
        chat = patched(**{POISON: str(poison), "QINGYU_BUS__WATCHDOG_SECONDS": WATCHDOG_SECONDS})
        with rig(run, workers=WORKERS, chat=chat, settings=settings) as it:
            asyncio.run(_run(it, run, outcome, poison))


async def _run(it: Rig, run: Run, outcome: Outcome, poison: Path) -> None:
    poisoned = [Poisoned(it.ask(TOKENS, PER_SECOND), it.either(), timeout=TIMEOUT) for _ in range(run.dose)]
    for i, client in enumerate(poisoned):
        client.kind = KINDS[i % len(KINDS)]
    count = run.dose * (20 if run.short else INNOCENTS_TO_ONE)
    innocent = [Client(it.ask(TOKENS, PER_SECOND), it.either(), timeout=TIMEOUT) for _ in range(count)]
    everybody = [*poisoned, *innocent]
    it.random.shuffle(everybody)
    room = asyncio.Semaphore(AT_ONCE)
    async with (
        connected(it.system.target) as stub,
        observed(it.system.nats.url) as broker,
        _letters(it) as letters,
    ):
        deaths: Counter[str] = Counter()
        supervising = asyncio.create_task(_supervise(it, deaths))
        await asyncio.gather(*(_call(room, stub, client, unary=i % 2 == 0) for i, client in enumerate(everybody)))
        try:
            await eventually(broker.no_jobs, timeout=15)
        except AssertionError:
            outcome.wrong.append(f"stuck: {await broker.open_jobs()} jobs are in the queue still")
        supervising.cancel()
        for worker in it.system.workers:
            if not worker.alive:
                worker.start()
        put_aside = await letters.read()
        _judge(poisoned, innocent, put_aside, outcome)
        outcome.counts["workers lost"] = deaths.total()
        ledger = await it.check(outcome, everybody)
        outcome.counts["innocents run again"] = sum(len(ledger[client.ask.call]) > 1 for client in innocent)
        await asyncio.to_thread(it.system.wait_ready)
        if put_aside and not run.without:
            await asyncio.to_thread(poison.unlink)
            await _replay(it, stub, it.random.choice(poisoned), letters, put_aside, outcome)
    await it.check_heals(outcome)


@asynccontextmanager
async def _letters(it: Rig) -> AsyncIterator[DeadLetters]:
    """The dead letters, as an operator's tool has them."""
    bus = await NatsBus.open([it.system.nats.url], "faults", on_closed=lambda: None)
    try:
        settings = BusSettings()
        yield DeadLetters(bus, Records(bus, settings), settings)
    finally:
        await bus.close()


async def _supervise(it: Rig, deaths: Counter[str]) -> None:
    """Start workers again that died."""
    while True:
        dead: list[Running] = [worker for worker in it.system.workers if not worker.alive]
        for worker in dead:
            deaths[worker.name] += 1
            worker.start()
        await asyncio.sleep(0.1)


async def _call(room: asyncio.Semaphore, stub: Stub, client: Client, *, unary: bool) -> None:
    async with room:
        await (client.chat(stub) if unary else client.stream(stub))
        while client.failure and client.failure.fault and client.failure.fault.reason == "NO_WORKER":
            await asyncio.sleep(client.failure.retry_seconds or 1.0)
            await (client.chat(stub) if unary else client.stream(stub))


def _judge(poisoned: Sequence[Poisoned], innocent: Sequence[Client], aside: Sequence[Letter], outcome: Outcome) -> None:
    found = Counter(letter.content.headers[wire.REQUEST] for letter in aside)
    for client in poisoned:
        times = found.pop(client.request_id, 0)
        outcome.check(times == 1, f"{client!r}, which {client.kind}s, has {times} dead letters")
        expected = "INTERNAL" if client.kind == RAISE else "DEAD_LETTER"
        failure = client.failure
        right = failure and failure.code is grpc.StatusCode.INTERNAL and failure.fault and failure.fault.reason
        outcome.check(right == expected, f"{client!r}, which {client.kind}s")
    names = {client.request_id: client for client in innocent}
    outcome.wrong += [f"innocent, and put aside: {names.get(request_id, request_id)!r}" for request_id in found]
    outcome.wrong += [f"innocent: {client!r}" for client in innocent if client.failure is not None]
    outcome.counts |= {"poisoned": len(poisoned), "innocent": len(innocent), "dead letters": len(aside)}


async def _replay(
    it: Rig, stub: Stub, client: Poisoned, letters: DeadLetters, aside: Sequence[Letter], outcome: Outcome
) -> None:
    """Have one tried again whose poison has gone; its caller asks for the same request once more."""
    [letter] = [one for one in aside if one.content.headers[wire.REQUEST] == client.request_id]
    streamed = letter.content.subject.endswith("stream")
    with capture_logs():
        await letters.replay(letter, seconds=60)
    await (client.stream(stub, 60) if streamed else client.chat(stub, 60))
    outcome.check(client.failure is None, f"replayed: {client!r}")
    await it.check(outcome, [client])
    outcome.expect("letters after a replay", len(await letters.read()), len(aside) - 1)


ROW = Row(
    "poison",
    "jobs that raise, hang or kill their worker among many: exactly these become dead letters, and all others complete",
    full=30,
    short=3,
    run=run,
    controls=(Control("alone", "innocent", dose=9),),
)
