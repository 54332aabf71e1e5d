"""Who is there: workers answer `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` as the NATS services framework says (ADR-32), so
that standard NATS tooling lists them, and bridges keep a view of them that is at most a second old.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from . import subjects
from .observing import NOBODY, Observer, Process
from .transport import Bus, Headers, Subscription
from .transport_errors import Disconnected, TransportError

log = structlog.get_logger(__name__)

PREFIX = "$SRV"
NAME = "qingyu-{kind}"
"""Service name of a kind of worker."""

PING_EVERY = 0.4
"""Seconds between a bridge's pings."""

VIEW_AGE = 1.0
"""Seconds after which a worker that has not answered is not there."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row that a worker serves, as INFO and STATS show it."""

    name: str
    subject: str
    queue_group: str


@dataclass(slots=True)
class Counts:
    """What an endpoint has done so far."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    seconds: float = 0.0

    def add(self, seconds: float, error: str = "") -> None:
        """Count one finished call."""
        self.requests += 1
        self.seconds += seconds
        if error:
            self.errors += 1
            self.last_error = error


@dataclass
class Identity:
    """How a worker presents itself."""

    kind: str
    id: str
    version: str
    metadata: dict[str, str]
    endpoints: dict[Endpoint, Counts] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        """Service name."""
        return NAME.format(kind=self.kind)

    def answer(self, verb: str) -> dict[str, object]:
        """The answer to PING, INFO or STATS."""
        base: dict[str, object] = {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": self.name,
            "id": self.id,
            "version": self.version,
            "metadata": self.metadata,
        }
        if verb == "INFO":
            base["description"] = f"{self.kind} worker"
            base["endpoints"] = [
                {"name": e.name, "subject": e.subject, "queue_group": e.queue_group, "metadata": {}}
                for e in self.endpoints
            ]
        if verb == "STATS":
            base["started"] = self.started.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            base["endpoints"] = [
                {
                    "name": e.name,
                    "subject": e.subject,
                    "queue_group": e.queue_group,
                    "num_requests": c.requests,
                    "num_errors": c.errors,
                    "last_error": c.last_error,
                    "processing_time": int(c.seconds * 1e9),
                    "average_processing_time": int(c.seconds * 1e9 / c.requests) if c.requests else 0,
                    "data": {},
                }
                for e, c in self.endpoints.items()
            ]
        return base


class Announcement:
    """A worker's presence, until `stop`."""

    def __init__(self, bus: Bus, identity: Identity) -> None:
        self._bus = bus
        self._identity = identity
        self._interests: list[Subscription] = []

    async def start(self) -> None:
        """Begin to answer."""
        for verb in ("PING", "INFO", "STATS"):
            for suffix in ("", f".{self._identity.name}", f".{self._identity.name}.{self._identity.id}"):
                self._interests.append(await self._bus.subscribe(f"{PREFIX}.{verb}{suffix}", self._on_question))

    async def stop(self) -> None:
        """Be there no more. New calls go elsewhere from now on."""
        for interest in self._interests:
            await interest.stop()
        self._interests.clear()
        with contextlib.suppress(TransportError):
            self._bus.publish(subjects.left(self._identity.id), b"")

    def _on_question(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        if reply.startswith(f"{subjects.INBOX}."):  # of anybody: operators ask with tools of their own
            verb = subject.split(".")[1]
            self._bus.publish(reply, json.dumps(self._identity.answer(verb)).encode())


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker that answered."""

    kind: str
    id: str
    at: float
    """`time.monotonic()` of the answer."""
    metadata: dict[str, str]
    version: str = ""


class Presence:
    """A bridge's view of the workers.

    Args:
        observer: told of workers that are gone without a word.
    """

    def __init__(self, bus: Bus, inbox: str, observer: Observer = NOBODY) -> None:
        self._bus = bus
        self._inbox = inbox
        self._observer = observer
        self._seen: dict[str, Seen] = {}
        self._interests: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None
        self._rounds = self._pings = 0
        self._left: set[str] = set()
        """Workers that have said that they stop."""

    def __repr__(self) -> str:
        return f"<Presence {self.counts()}>"

    async def start(self) -> None:
        """Ask for the first time, and keep asking."""
        self._interests.append(await self._bus.subscribe(f"{self._inbox}.*", self._on_answer))
        self._interests.append(await self._bus.subscribe(subjects.left("*"), self._on_left))
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
        for interest in self._interests:
            await interest.stop()

    async def _keep(self) -> None:
        while True:
            try:
                self._ping()
            except Disconnected:
                pass
            else:
                self._rounds += 1
            await asyncio.sleep(PING_EVERY)
            horizon = time.monotonic() - VIEW_AGE
            for worker in [w for w in self._seen.values() if w.at < horizon]:
                log.info("worker_gone", worker=worker.kind, id=worker.id)
                del self._seen[worker.id]
                if worker.id not in self._left:
                    self._observer.worker_down(Process(worker.id, worker.kind, worker.version), lost=True)
                self._left.discard(worker.id)

    def _ping(self) -> None:
        # A subject for each question: a worker may answer once to each, and that would be one for two that it hears together.
        self._pings += 1
        self._bus.publish(f"{PREFIX}.PING", b"", reply=f"{self._inbox}.{self._pings}")

    def _on_left(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        worker = subject.rpartition(".")[2]
        if worker in self._seen:
            self._left.add(worker)

    def _on_answer(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        if not data:
            return  # no responders
        answer = json.loads(data)
        metadata = answer.get("metadata") or {}
        kind = metadata.get("kind")
        if not kind or answer.get("name") != NAME.format(kind=kind):
            return  # some other service on the same broker
        if answer["id"] not in self._seen:
            log.info("worker_seen", worker=kind, id=answer["id"])
        self._seen[answer["id"]] = Seen(kind, answer["id"], time.monotonic(), metadata, answer.get("version", ""))

    @property
    def settled(self) -> bool:
        """Whether the first answers have had time to arrive."""
        return self._rounds > 1

    def has(self, kind: str) -> bool:
        """Whether a worker of this kind was there within the last second."""
        horizon = time.monotonic() - VIEW_AGE
        return any(w.kind == kind and w.at >= horizon for w in self._seen.values())

    def workers(self) -> Iterable[Seen]:
        """Those who were there within the last second."""
        horizon = time.monotonic() - VIEW_AGE
        return [w for w in self._seen.values() if w.at >= horizon]

    def counts(self) -> dict[str, int]:
        """Replicas of each kind."""
        counts: dict[str, int] = {}
        for worker in self.workers():
            counts[worker.kind] = counts.get(worker.kind, 0) + 1
        return counts

    async def ask_now(self, kinds: Iterable[str], timeout: float) -> None:
        """Ask, and wait until a worker of each kind has answered this very question, or the time is over."""
        asked = time.monotonic()
        wanted = set(kinds)
        try:
            self._ping()
        except Disconnected:
            return
        while time.monotonic() - asked < timeout:
            await asyncio.sleep(0.005)
            if wanted <= {w.kind for w in self._seen.values() if w.at >= asked}:
                return
