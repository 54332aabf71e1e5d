"""The answering side: a process that serves rows of the table.

Rows are registered with plain handlers that never see the broker. The worker bounds how many calls run at once, refuses
what does not fit, drops what nobody waits for any more, keeps the time of frames and jobs, and drains when asked.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import structlog
from google.protobuf.message import Message

from qingyu_ai import __version__
from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import Job, Route, Rpc, StreamJob
from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import subjects, topology
from .discovery import Announcement, Counts, Endpoint, Identity
from .handler import Call, FollowUp, Served
from .jobs import Jobs
from .observing import NOBODY, Observer, Process
from .rpcs import Rpcs
from .transport import Bus, Headers, Hook, Subscription

log = structlog.get_logger(__name__)

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

TICK = 0.25
"""Seconds between looks at the clock."""


class Worker:
    """One worker process.

    Args:
        bus: the broker.
        kind: `chat`, `agent`, `rag` or `tool`.
        settings: times and sizes of the protocol.
        slots: jobs that run at once, and as many rpc calls beside them.
        metadata: what the worker says of itself when asked who is there.
        observer: told what happens.
    """

    def __init__(
        self,
        bus: Bus,
        kind: str,
        settings: BusSettings,
        *,
        slots: int,
        metadata: dict[str, str] | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        self.bus = bus
        self.kind = kind
        self._settings = settings
        self._slots = slots
        self._observer = observer
        self.token = secrets.token_hex(6)
        self._served: dict[str, Served] = {}
        self.jobs = Jobs(bus, kind, self.token, settings, slots, self._find, self._finished, observer)
        self.rpcs = Rpcs(bus, kind, slots, self._find, self._finished, observer)
        # Counted apart from jobs: a standing pull has asked for jobs already, up to its free slots, when an rpc call comes.
        self._interests: list[Subscription] = []
        self._opened: dict[str, Subscription] = {}
        """By subject: rows that are served beside those of the start."""
        self._clock: asyncio.Task[None] | None = None
        self.identity = Identity(
            kind,
            self.token,
            __version__,
            {"kind": kind, "protocol": str(wire.PROTOCOL), **(metadata or {})},
        )
        self._announcement = Announcement(bus, self.identity)
        self._process = Process(self.token, kind, __version__)
        self.draining = False
        self._ahead: list[Hook] = []
        self._beside: list[tuple[Hook, Hook]] = []
        self._on_finished: Callable[[str, float], None] = lambda method, seconds: None

    def __repr__(self) -> str:
        return (
            f"<Worker {self.kind} {self.token}: {self.running} of {self._slots} slots, serves {sorted(self._served)}>"
        )

    @property
    def slots(self) -> int:
        """Jobs that may run at once, and as many rpc calls."""
        return self._slots

    @property
    def running(self) -> int:
        """Calls that run now."""
        return len(self.rpcs) + len(self.jobs)

    def tell(self, name: str, fact: str) -> None:
        """Say something else of itself from now on to who asks who is there; HealthCheck shows `model` and `store`."""
        self.identity.metadata[name] = fact

    def observe(self, on_finished: Callable[[str, float], None]) -> None:
        """Have (method, seconds) of each finished call reported, for metrics."""
        self._on_finished = on_finished

    def _finished(self, method: str, seconds: float) -> None:
        self._on_finished(method, seconds)

    def ahead(self, check: Hook) -> None:
        """Have something done before any call is heard. If it raises, this worker does not start, and has heard nothing."""
        self._ahead.append(check)

    def beside(self, start: Hook, stop: Hook) -> None:
        """Have something live as long as this worker serves: it starts once calls are heard, and stops before they are not."""
        self._beside.append((start, stop))

    # Registration: the kind of row decides the handler's type.

    def rpc(self, route: Rpc[Req, Rep], handler: Callable[[Call, Req], Awaitable[Rep]], *, token: str = "") -> None:
        """Serve an rpc row.

        Args:
            token: serve only requests whose token field has this value (one tool).
        """
        self._serve(route, handler, None, token)

    async def open_rpc(
        self, route: Rpc[Req, Rep], handler: Callable[[Call, Req], Awaitable[Rep]], *, token: str
    ) -> None:
        """Serve one more rpc row, of a worker that has started: a tool that came.

        Raises:
            TransportError: the broker does not answer.
        """
        self._serve(route, handler, None, token)
        subject = f"{route.subject}.{token}"
        if subject not in self._opened:
            self._opened[subject] = await self.bus.subscribe(subject, self.rpcs.on_request, queue=self.kind)

    async def close_rpc(self, route: Rpc[Any, Any], *, token: str) -> None:
        """Serve a row no more that `open_rpc` began. Calls that run go on."""
        subject = f"{route.subject}.{token}"
        interest = self._opened.pop(subject, None)
        if interest is not None:
            await interest.stop()
        self._served.pop(subject, None)
        self.identity.endpoints.pop(Endpoint(route.method, subject, self.kind), None)

    def job(
        self,
        route: Job[Req, Rep],
        handler: Callable[[Call, Req], Awaitable[Rep]],
        follow_up: FollowUp | None = None,
        *,
        notes: type[Message] | None = None,
    ) -> None:
        """Serve a job row with one answer.

        Args:
            notes: what the handler notes of its answer while it works (`Call.note`), a stream message type. It goes on after
                `Call.said`, which are the notes of a worker before it. None: it notes nothing, and begins anew.
        """
        self._serve(route, handler, follow_up, continues=notes is not None, notes=notes)

    def stream(
        self,
        route: StreamJob[Req, Rep],
        handler: Callable[[Call, Req], AsyncIterator[Rep]],
        follow_up: FollowUp | None = None,
        *,
        continues: bool = False,
    ) -> None:
        """Serve a job row whose answer is a stream.

        Args:
            continues: the handler goes on after `Call.said`, so it can take over what another worker had begun.
        """
        self._serve(route, handler, follow_up, continues=continues)

    def _serve(
        self,
        route: Route[Any, Any],
        handler: Callable[[Call, Any], Any],
        follow_up: FollowUp | None,
        token: str = "",
        *,
        continues: bool = False,
        notes: type[Message] | None = None,
    ) -> None:
        subject = f"{route.subject}.{token}" if token else route.subject
        queue = f"{self.kind}" if isinstance(route, Rpc) else topology.QUEUES[self.kind].consumer
        counts = Counts()
        self.identity.endpoints[Endpoint(route.method, subject if token else route.interest, queue)] = counts
        self._served[subject] = Served(route, handler, counts, follow_up, continues, notes)

    def _find(self, subject: str) -> Served | None:
        return self._served.get(subject) or self._served.get(subject.rpartition(".")[0])

    # Life.

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            TransportError: the broker does not answer, or its streams are missing.
        """
        for check in self._ahead:
            await check()
        self._interests.append(await self.bus.subscribe(f"{subjects.CANCEL}.*", self._on_cancel))
        self._interests.append(await self.bus.subscribe(subjects.credit(self.token), self._on_credit))
        for subject, served in self._served.items():
            if isinstance(served.route, Rpc):
                interest = f"{subject}.*" if served.route.token and subject == served.route.subject else subject
                self._interests.append(await self.bus.subscribe(interest, self.rpcs.on_request, queue=self.kind))
        self._clock = asyncio.get_running_loop().create_task(self._keep_time())
        if any(isinstance(served.route, Job | StreamJob) for served in self._served.values()):
            await self.jobs.start()
        for begin, _ in self._beside:
            await begin()
        await self._announcement.start()
        self._observer.worker_up(self._process, self._slots)
        log.info("worker_started", worker=self.kind, id=self.token, slots=self._slots)

    async def drain(self, seconds: float) -> None:
        """Take no new call, let those that run finish, then give back what is left.

        Args:
            seconds: how long the running calls may take.
        """
        self.draining = True
        self.rpcs.takes = False
        log.info("worker_drains", worker=self.kind, running=self.running, seconds=seconds)
        self._observer.worker_draining(self._process, self.running)
        await self._announcement.stop()
        for _, end in reversed(self._beside):
            await end()
        await self.jobs.stop()
        control, rpcs = self._interests[:2], self._interests[2:]  # none of either, if it did not start
        for interest in (*rpcs, *self._opened.values()):
            await interest.stop()
        if left := self._left:
            await asyncio.wait(left, timeout=seconds)
        left = self._left
        for task in left:
            task.cancel()
        if left:
            log.warning("worker_gives_back", worker=self.kind, calls=len(left))
            await asyncio.wait(left, timeout=2)
        for interest in control:
            await interest.stop()
        if self._clock is not None:
            self._clock.cancel()
        self._observer.worker_down(self._process, lost=False)
        log.info("worker_stopped", worker=self.kind, id=self.token)

    @property
    def _left(self) -> set[asyncio.Task[None]]:
        return self.rpcs.tasks | self.jobs.tasks | self.jobs.answered

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                self.jobs.tick(time.monotonic())
            except Exception:
                log.exception("tick_failed")

    def _on_credit(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        self.jobs.grant(bus_pb2.Credit.FromString(data))

    def _on_cancel(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        call = subject.rpartition(".")[2]
        self.rpcs.cancel(call)
        self.jobs.cancel(call)
