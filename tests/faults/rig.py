"""A system to break: a broker, bridges, chat workers and the model, with the protocol's short times."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.e2e.callers import FAST
from tests.nats_cluster import AnyNats
from tests.process import Running
from tests.running import System, Worker

from .clients import Client, connected
from .ledger import Attempt, wrongs
from .patched import INSIDES, PROCESS, WITHOUT
from .report import Outcome, Run
from .tokens import Ask
from .upstream import PREFIX, RESTART
from .upstream_process import Model

CHAT = Worker("services.chat", "chat")

PATCHED = "tests.faults.patched"

IN_THE_BRIDGE = frozenset(
    ("resume", "epochs", "windows", "holes", "one-log", "dismiss", "presence", "digest", "held", "linger", "identity")
)
"""Guards that a bridge has; the others are a worker's."""

HEAL_SECONDS = 10.0
"""After a fault, until everything works again."""


class Rig:
    """What a row works with."""

    def __init__(self, system: System, model: Model, run: Run, chat: Worker) -> None:
        self.system = system
        self._chat = chat
        self.model = model
        self.random = run.random
        self._names = itertools.count(1)

    def ask(self, tokens: int, per_second: float, think: float = 0.0, linger: float = 0.0, **breaks: int) -> Ask:
        """A new question, with a new name."""
        return Ask(f"沈{next(self._names)}", tokens, per_second, think, linger, **breaks)

    def add_worker(self, **env: str) -> Running:
        """Start one more worker, like the first ones but for these variables."""
        module = PATCHED if any(name.startswith("FAULTS_") for name in env) else self._chat.module
        return self.system.add_worker(Worker(module, CHAT.kind, {PROCESS: CHAT.kind, **self._chat.env, **env}))

    def either(self) -> str:
        """One of the two ways of going on, by chance."""
        return self.random.choice((PREFIX, RESTART))

    async def check(self, outcome: Outcome, clients: Sequence[Client]) -> dict[str, list[Attempt]]:
        """Compare what clients received with the model's ledger.

        Returns:
            The ledger.
        """
        ledger = await asyncio.to_thread(self.model.ledger)
        for client in clients:
            outcome.wrong += wrongs(client.received, ledger[client.ask.call], client.ask.tokens)
        return ledger

    async def check_heals(self, outcome: Outcome) -> None:
        """After the fault: every process is ready, and each bridge answers fresh calls right."""
        await asyncio.to_thread(self.system.wait_ready, HEAL_SECONDS)
        for bridge in self.system.bridges:
            if bridge.alive:
                async with connected(bridge.target) as stub:
                    fresh = [Client(self.ask(10, 100), name, timeout=10) for name in (PREFIX, RESTART)]
                    await asyncio.gather(fresh[0].stream(stub), fresh[1].chat(stub))
                    for client in fresh:
                        outcome.check(client.failure is None, f"does not heal: {client!r}")
                    await self.check(outcome, fresh)


def patched(**env: str) -> Worker:
    """A chat worker with changes; see `patched`."""
    return Worker(PATCHED, CHAT.kind, {PROCESS: CHAT.kind, **env})


@contextmanager
def rig(
    run: Run,
    *,
    workers: int = 2,
    bridges: int = 1,
    settings: Mapping[str, str] | None = None,
    chat: Worker = CHAT,
    tells: bool = False,
    endpoint: Mapping[str, Any] | None = None,
    nats: AnyNats | None = None,
) -> Iterator[Rig]:
    """Run a system, without the guard that the run is to do without.

    Args:
        tells: bridges and workers tell what they hold (`insides`).
        endpoint: more settings of the models.
        nats: the broker; None: that of the suite.
    """
    settings = {**FAST, **(settings or {})}
    bridge, in_bridge, in_worker = "bridge", {}, {}
    if tells:
        in_bridge[INSIDES] = in_worker[INSIDES] = "1"
    if run.without:
        (in_bridge if run.without in IN_THE_BRIDGE else in_worker)[WITHOUT] = run.without
    if in_bridge:
        bridge, settings = PATCHED, {**settings, PROCESS: "bridge", **in_bridge}
    if in_worker:
        chat = patched(**{**chat.env, **in_worker})
    with (
        Model(endpoint) as model,
        System(
            *[chat] * workers, bridges=bridges, settings={**settings, **model.settings}, nats=nats, bridge_module=bridge
        ) as system,
    ):
        yield Rig(system, model, run, chat)
