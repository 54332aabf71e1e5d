"""Frames and their acknowledgements are lost, doubled and late: a proxy between each worker and its broker sees to it.

Each call gets one of the disturbances below, and 1 % of all frames is lost or doubled besides.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from qingyu_ai.bus import subjects
from qingyu_ai.bus.headers import CALL
from qingyu_ai.contract import bus_pb2
from tests.faults.broker import observed
from tests.faults.clients import Client, connected
from tests.faults.nats_proxy import DROP, PASS, TWICE, Link, NatsProxy
from tests.faults.nats_wire import Message
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import Rig, rig
from tests.nats_process import NatsProcess
from tests.waiting import eventually

WORKERS = 2

AT_ONCE = 60

TOKENS, PER_SECOND = 50, 25

NOISE = 0.01
"""The part of all frames that is lost, and the part that is doubled, is half of this each."""

SETTINGS = {
    "QINGYU_BUS__ACK_WAIT_SECONDS": "1",
    "QINGYU_BUS__LEASE_SECONDS": "3",
    "QINGYU_BUS__PATIENCE_SECONDS": "8",
}
"""A worker whose frames are held must be replaced before its own patience is over and it gives up by itself."""

NO_END_SECONDS = 4.0
"""For how long the end of a call does not get through: longer than the lease, so that its reader asks the record."""

BEHIND_SECONDS = 0.02
"""From a fence to the frames that were held: it is stored by then, and the model has not answered the other worker yet."""

LATE, NO_END, NO_ACK, SLOW = "late", "no end", "no ack", "slow"
KINDS = (LATE, NO_END, NO_ACK, SLOW)


@dataclass
class _Story:
    """What is done to one call."""

    kind: str
    after: int
    """Frames that pass before it begins."""
    epoch: int = 0
    """Of the first worker."""
    frames: int = 0
    held: list[tuple[Link, Message]] = field(default_factory=list)
    holding: bool = False
    over: bool = False
    more: int = 0
    """Frames that still pass of a worker that was replaced."""
    end_at: float = 0.0
    touched: set[int] = field(default_factory=set)
    """Frames that were lost once, by their number: what is sent again passes, so that no claim breaks for want of acks."""


class Disturbance:
    """The rule of the proxy."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._stories: dict[str, _Story] = {}
        self._waits_for_ack: dict[str, str] = {}
        self._job_of: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    def up(self, link: Link, message: Message) -> Sequence[float]:
        """A worker publishes."""
        if message.subject.startswith(f"{subjects.STREAM}."):
            return self._frame(link, message)
        if message.data == b"+WPI":
            story = self._stories.get(self._job_of.get(message.subject, ""))
            if story is not None and story.holding:
                return DROP  # it must be taken for dead
        return PASS

    def down(self, link: Link, message: Message) -> Sequence[float]:
        """A worker is told something."""
        if message.subject.startswith(f"{subjects.JOB}."):
            self._job_of[message.reply] = message.header(CALL)
        call = self._waits_for_ack.pop(message.subject, None)
        story = self._stories.get(call or "")
        if (
            story is not None
            and story.kind == NO_ACK
            and story.frames > story.after
            and self._once(story, -story.frames)
        ):
            self.counts["acks lost"] += 1
            return DROP
        return PASS

    def _frame(self, link: Link, message: Message) -> Sequence[float]:
        call = message.subject.rpartition(".")[2]
        frame = bus_pb2.Frame.FromString(message.data)
        story = self._stories.get(call)
        if story is None:
            kind = self._chance.choice(KINDS)
            story = self._stories[call] = _Story(kind, self._chance.randint(1, 15), frame.epoch)
            story.more = self._chance.randint(0, 8)
        self._waits_for_ack[message.reply] = call
        story.frames += 1
        if story.kind == LATE:
            return self._late(story, link, message, frame)
        if story.kind == NO_END and frame.HasField("end"):
            now = asyncio.get_running_loop().time()
            story.end_at = story.end_at or now
            if now - story.end_at < NO_END_SECONDS:
                self.counts["ends lost"] += 1
                return DROP
            return PASS
        if story.kind == SLOW and self._chance.random() < 0.05:
            self.counts["frames late"] += 1
            return (self._chance.uniform(0.1, 1.4),)
        return self._noise(story, frame)

    def _late(self, story: _Story, link: Link, message: Message, frame: bus_pb2.Frame) -> Sequence[float]:
        """The frames of the first worker are held until the second has spoken; some more come after them, then no more."""
        if frame.epoch > story.epoch and story.holding:
            story.holding, story.over = False, True
            asyncio.get_running_loop().call_later(BEHIND_SECONDS, self._release, story)
            return PASS
        if frame.epoch > story.epoch or story.frames <= story.after:
            return PASS
        if story.over:
            story.more -= 1
            return PASS if story.more >= 0 else DROP
        story.holding = True
        story.held.append((link, message))
        return DROP

    def _release(self, story: _Story) -> None:
        self.counts["frames behind a fence"] += len(story.held)
        for link, message in story.held:
            link.up(message)
        story.held.clear()

    def _noise(self, story: _Story, frame: bus_pb2.Frame) -> Sequence[float]:
        dice = self._chance.random()
        if dice < NOISE / 2 and self._once(story, frame.seq):
            self.counts["frames lost"] += 1
            return DROP
        if dice > 1 - NOISE / 2:
            self.counts["frames doubled"] += 1
            return TWICE
        return PASS

    def _once(self, story: _Story, number: int) -> bool:
        """Whether this was not done before, nor to the frame before."""
        if {number, number - 1, number + 1} & story.touched or (number < 0 and self._chance.random() < 0.7):
            return False
        story.touched.add(number)
        return True


def run(run: Run, outcome: Outcome) -> None:
    """Disturb as many streams as the dose."""
    rule = Disturbance(run.random)
    with NatsProxy(rule) as proxy, rig(run, workers=0, settings=SETTINGS) as it:
        assert isinstance(it.system.nats, NatsProcess), "the proxy leads to one server"
        proxy.to = it.system.nats.port
        for _ in range(WORKERS):
            it.add_worker(NATS_URL=proxy.door())
        it.system.wait_ready()
        asyncio.run(_run(it, run, outcome))
    outcome.counts |= rule.counts
    happenings = ["frames behind a fence", "ends lost", "acks lost", "frames late"]
    # A small dose may be spared the hundredth of all frames that is lost or doubled.
    happenings += [] if run.short else ["frames lost", "frames doubled"]
    for happened in happenings:
        outcome.check(rule.counts[happened] > 0, f"{happened}: never happened")


async def _run(it: Rig, run: Run, outcome: Outcome) -> None:
    clients = [Client(it.ask(TOKENS, PER_SECOND, think=0.1), it.either(), timeout=40) for _ in range(run.dose)]
    room = asyncio.Semaphore(AT_ONCE)
    async with connected(it.system.target) as stub, observed(it.system.nats.url) as broker:

        async def one(client: Client) -> None:
            async with room:
                await client.stream(stub)

        await asyncio.gather(*map(one, clients))
        try:
            await eventually(broker.no_jobs, timeout=20)
        except AssertionError:
            outcome.wrong.append(f"stuck: {await broker.open_jobs()} jobs are in the queue still")
    await it.check(outcome, clients)
    ends: dict[str, list[Client]] = defaultdict(list)
    for client in clients:
        ends[client.failure.code.name if client.failure else "OK"].append(client)
    for code, ended in ends.items():
        if code not in ("OK", grpc.StatusCode.DATA_LOSS.name):
            outcome.wrong += [f"{client!r}" for client in ended]
    outcome.counts |= {"streams": len(clients), "whole": len(ends["OK"]), "data loss": len(ends["DATA_LOSS"])}
    outcome.time("silence", (client.longest_silence for client in clients))
    await it.check_heals(outcome)


ROW = Row(
    "frames",
    "frames and acks lost, doubled and late, also behind another worker's fence: repaired or DATA_LOSS, never wrong text",
    full=1000,
    short=60,
    run=run,
    controls=(Control("resend", "DEADLINE_EXCEEDED", dose=60), Control("epochs", "middle of a request", dose=60)),
)
