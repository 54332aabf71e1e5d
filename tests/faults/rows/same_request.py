"""One request id, asked again: many times at once at two bridges, after the end, with another body, and after a failure.

The model is asked once for each attempt, whoever asks and however often; and everybody is told the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import grpc

from tests.faults.broker import check_sessions, observed
from tests.faults.clients import Client, Stub, connected
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.faults.tokens import Ask
from tests.waiting import eventually

AT_ONCE = 100
"""Who asks for one call at the same time, half of them at each bridge."""

AFTERWARDS = 6

TOKENS, PER_SECOND = 30, 40

THINK = 0.6
"""Seconds before a failure, so that all who ask at once are there."""

BREAKS_AFTER = 12

TRIES = 4
"""Asked again so often after failures that name a delay: as often as a call is reopened, and the first."""

ENDPOINT = {"attempts": 1, "breaker_failures": 10_000}
"""A worker asks once, and goes on asking a model that fails."""


def run(run: Run, outcome: Outcome) -> None:
    """Run as many groups of calls as the dose."""
    with rig(run, workers=2, bridges=2, endpoint=ENDPOINT) as it:
        asyncio.run(_run(it, run, outcome))


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    outcome.counts |= {"groups": run.dose, "asked": 0, "other bodies refused": 0, "reopened": 0}
    async with (
        connected(it.system.bridges[0].target) as first,
        connected(it.system.bridges[1].target) as second,
        observed(it.system.nats.url) as broker,
    ):
        stubs = [first, second]
        whole: list[Client] = []
        for number in range(run.dose):
            unary = bool(number % 2)
            whole.append(await _undisturbed(it, stubs, outcome, unary=unary))
            whole.append(await _failing(it, stubs, outcome, it.ask(TOKENS, 0, THINK, breaks=1), unary=unary))
            cut = it.ask(TOKENS, PER_SECOND, THINK, breaks=1, breaks_after=BREAKS_AFTER)
            whole.append(await _failing(it, stubs, outcome, cut, unary=False))
        await eventually(broker.no_jobs, timeout=15)
        await check_sessions(broker, whole, outcome)
    await it.check_heals(outcome)


async def _undisturbed(it: Rig, stubs: Sequence[Stub], outcome: Outcome, *, unary: bool) -> Client:
    """A call that goes well: asked for at once, again, and after its end; with another body meanwhile and afterwards."""
    first = Client(it.ask(TOKENS, PER_SECOND), it.either(), session=it.ask(0, 0).call)
    clients = [first, *_alike(first, AT_ONCE - 1)]
    asking = [asyncio.create_task(_read(client, stubs[i % 2], unary=unary)) for i, client in enumerate(clients)]
    await eventually(lambda: _asked(it, first))
    await _others(it, first, stubs, outcome, unary=unary)
    later = _alike(first, AFTERWARDS)
    await asyncio.gather(*(_read(client, stubs[i % 2], unary=unary) for i, client in enumerate(later)))
    await asyncio.gather(*asking)
    afterwards = _alike(first, AFTERWARDS)
    await asyncio.gather(*(_read(client, stubs[i % 2], unary=unary) for i, client in enumerate(afterwards)))
    await _others(it, first, stubs, outcome, unary=unary)
    await _judge(it, [*clients, *later, *afterwards], outcome, asked=1)
    return first


async def _failing(it: Rig, stubs: Sequence[Stub], outcome: Outcome, ask: Ask, *, unary: bool) -> Client:
    """A call whose model fails at first: asked for at once, and again with what each has of it, until it goes well."""
    first = Client(ask, it.either(), session=it.ask(0, 0).call)
    clients = [first, *_alike(first, AT_ONCE - 1)]

    async def insist(client: Client, number: int) -> None:
        for attempt in range(TRIES):
            await _read(client, stubs[(number + attempt) % 2], unary=unary)
            if client.failure is None or client.failure.retry_seconds is None:
                return
            outcome.counts["reopened"] += 1
            await asyncio.sleep(it.random.uniform(0, 0.2))

    await asyncio.gather(*(insist(client, i) for i, client in enumerate(clients)))
    await _judge(it, clients, outcome, asked=2)
    return first


async def _others(it: Rig, first: Client, stubs: Iterable[Stub], outcome: Outcome, *, unary: bool) -> None:
    """Ask for something else under the same id."""
    for stub in stubs:
        [other] = _alike(first, 1)
        other.ask = it.ask(TOKENS, PER_SECOND)
        await _read(other, stub, unary=unary)
        code = other.failure.code if other.failure else grpc.StatusCode.OK
        outcome.check(
            code is grpc.StatusCode.ALREADY_EXISTS, f"another body under one id, not ALREADY_EXISTS: {other!r}"
        )
        outcome.counts["other bodies refused"] += code is grpc.StatusCode.ALREADY_EXISTS


async def _judge(it: Rig, clients: Sequence[Client], outcome: Outcome, *, asked: int) -> None:
    for client in clients:
        outcome.check(client.failure is None, f"{client!r}")
    outcome.check(
        len({client.text for client in clients}) == 1, f"{clients[0].ask.call}: not everybody was told the same"
    )
    ledger = await it.check(outcome, clients)
    times = len(ledger[clients[0].ask.call])
    outcome.check(times == asked, f"{clients[0].ask.call}: the model was asked {times} times, not {asked}")
    outcome.counts["asked"] += len(clients)


async def _asked(it: Rig, client: Client) -> bool:
    return bool((await asyncio.to_thread(it.model.ledger))[client.ask.call])


def _alike(client: Client, count: int) -> list[Client]:
    """Others who ask for the same, and have nothing of it."""
    others = [Client(client.ask, client.model, session=client.session) for _ in range(count)]
    for other in others:
        other.request_id = client.request_id
    return others


async def _read(client: Client, stub: Stub, *, unary: bool) -> None:
    await (client.chat(stub) if unary else client.stream(stub))


ROW = Row(
    "same-request",
    "one id asked for a hundred times at two bridges, again, with another body, after a failure: the model is asked once a try",
    full=20,
    short=4,
    run=run,
    controls=(Control("judge", "the model was asked", dose=2), Control("digest", "not ALREADY_EXISTS", dose=1)),
)
