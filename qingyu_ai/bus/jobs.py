"""The jobs of one worker: which it takes, which it holds, and what it is told of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import record, subjects, topology
from .dead import DeadLetters
from .errors import Fault, Invalid
from .handler import Served
from .headers import Envelope
from .job import JobRun, Station
from .observing import NOBODY, Decided, Observed, Observer
from .records import Records
from .shares import Shares
from .suspects import Suspects
from .transport import Bus, Delivery, Puller
from .transport_errors import TransportError

log = structlog.get_logger(__name__)

MAX_ATTEMPTS_UNREADABLE = 5
"""Deliveries after which a job with unreadable headers is given up."""

LOOK_SECONDS = 1.0
"""Between two looks at which log and which queue there are."""

OCCUPIED_SECONDS = 0.25
"""Until a job is delivered again that came to a worker which has a suspect, or does not know yet which queue there is."""

OnFinished = Callable[[str, float], None]
"""(method, seconds) of a call that is over."""


class Jobs:
    """Takes jobs from the queue of one kind, never more than there are slots.

    Args:
        kind: of worker.
        token: of the worker.
        slots: jobs that run at once.
        find: the row that is served under a subject.
        on_finished: told of each job that is over.
        observer: told what happens to them.
    """

    def __init__(
        self,
        bus: Bus,
        kind: str,
        token: str,
        settings: BusSettings,
        slots: int,
        find: Callable[[str], Served | None],
        on_finished: OnFinished,
        observer: Observer = NOBODY,
    ) -> None:
        self._bus = bus
        self._kind = kind
        self._settings = settings
        self._slots = slots
        self._find = find
        self._on_finished = on_finished
        self._records = Records(bus, settings)
        self.dead_letters = DeadLetters(bus, self._records, settings)
        self._observer = observer
        self._station = Station(bus, self._records, self.dead_letters, token, settings, observer)
        self.tasks: set[asyncio.Task[None]] = set()
        """Of the jobs that run."""
        self.answered: set[asyncio.Task[None]] = set()
        """Of those whose event and acknowledgement are left. They take no slot, unless they are as many as there are slots."""
        self._runs: set[JobRun] = set()
        self._claimed: dict[str, JobRun] = {}
        """By call: the run that credit and cancel concern. Other deliveries of the call may be here, unclaimed."""
        self._checks: set[asyncio.Task[None]] = set()
        self.suspects = Suspects(settings.lease_seconds, self.__len__)
        self.shares = Shares(slots)
        self.takes = self._looking = False
        """Whether it asks for jobs, and whether it is just looking at the streams."""
        self._puller: Puller | None = None
        self._log_name = self._queue_name = ""
        self._looked_at = 0
        """The connection over which these were learnt."""
        self._held = self._looked = self._ticked = time.monotonic()

    def __repr__(self) -> str:
        return f"<Jobs {len(self)} of {self._slots} slots, {self.suspects!r}>"

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def waiting_deltas(self) -> int:
        """Deltas that wait for the log, over all jobs."""
        return sum(run.speaker.waiting for run in self._runs if run.speaker is not None)

    async def start(self) -> None:
        """Begin to take jobs.

        Raises:
            TransportError: the broker does not answer, or its streams are missing.
        """
        await self._look_around()
        self._bus.on_reconnect(self._return)
        self.takes = True
        self._puller = await self._bus.pull(topology.QUEUES[self._kind], self._free, self.on_job)

    async def stop(self) -> None:
        """Take no more. Those that run go on."""
        self.takes = False
        if self._puller is not None:
            await self._puller.stop()

    def _free(self) -> int:
        return self._slots - len(self) if self.takes and not len(self.suspects) else 0

    # A job comes.

    def on_job(self, delivery: Delivery) -> None:
        """Take a delivery, or give it back."""
        served = self._find(delivery.subject)
        try:
            if served is None:
                raise Invalid(("subject", f"no row of this worker: {delivery.subject}"))
            envelope = Envelope.from_headers(delivery.headers)
            if not (
                subjects.CALL_ID.fullmatch(envelope.call) and subjects.is_log(envelope.inbox, self._kind, envelope.call)
            ):
                raise Invalid(("headers", "call id or inbox malformed"))
            if self._adopted(envelope.call, delivery):
                return
            run = JobRun(
                self._station, served, delivery, envelope, self._log_name, self._queue_name, self.suspects.alone
            )
        except (Fault, ValueError) as e:
            # Perhaps a worker of another release can read it.
            log.warning("job_unreadable", subject=delivery.subject, error=str(e), delivery=delivery.delivery)
            if delivery.delivery < MAX_ATTEMPTS_UNREADABLE:
                delivery.nak(1.0)
            else:
                fault = e if isinstance(e, Fault) else Invalid(("headers", "malformed"))
                self._keep(self._give_up(delivery, served, fault))
            return
        if len(self.suspects) or self._looked_at != self._bus.connections:
            delivery.nak(OCCUPIED_SECONDS)
            return
        if not (self.shares.may_begin(envelope.user) or envelope.deadline.passed):
            delivery.nak(self.shares.wait(envelope.user, envelope.call))
            if self._puller is not None:
                self._puller.renew()  # what is behind it?
            return
        self._begin(run, served.route.method, envelope)

    def _adopted(self, call: str, delivery: Delivery) -> bool:
        for run in self._runs:
            if run.call.id == call and run.adopt(delivery):
                self._keep(self._check(run))
                return True
        return False

    async def _give_up(self, delivery: Delivery, served: Served | None, fault: Fault) -> None:
        """Decide a call that no worker of this release can read, so that its caller need not wait for the deadline."""
        headers = delivery.headers or {}
        call = headers.get(wire.CALL, "")
        if subjects.CALL_ID.fullmatch(call):
            try:
                entry = await self._records.read(call, newest=True)
                if entry is None or not entry.done:
                    held = entry.record if entry is not None else None
                    digest = bytes.fromhex(headers.get(wire.DIGEST, ""))
                    value = record.decided(held, digest, bus_pb2.End(status=fault.status))
                    revision = await self._records.write(call, value, entry.revision if entry is not None else 0)
                    entry = record.Entry(revision, value)
                if served is not None:
                    observed = Observed.of(served.route, delivery.subject, Envelope.scraped(headers))
                    await self._observer.decided(Decided(observed, entry.revision, entry.record))
            except (TransportError, ValueError) as e:
                log.warning("job_not_decided", call=call, error=str(e))
                delivery.nak(1.0)
                return
        delivery.term()

    def _begin(self, run: JobRun, method: str, envelope: Envelope) -> None:
        began = time.monotonic()
        self.shares.begin(envelope.user, envelope.call)
        task = asyncio.get_running_loop().create_task(self._run(run))
        self.tasks.add(task)

        def free() -> None:
            if task not in self.tasks:
                return
            self.tasks.discard(task)
            self.shares.end(envelope.user)
            self._on_finished(method, time.monotonic() - began)
            self.suspects.over(run)
            if self._puller is not None:
                self._puller.renew()

        def answered() -> None:
            # Whoever listens to events must not hold up calls. What waits for their stream is bounded all the same.
            if len(self.answered) < self._slots:
                self.answered.add(task)
                free()

        def finished(task: asyncio.Task[None]) -> None:
            self.answered.discard(task)
            free()

        run.on_answered = answered
        task.add_done_callback(finished)

    async def _run(self, run: JobRun) -> None:
        self._runs.add(run)
        run.on_claim = lambda: self._on_claim(run)
        try:
            await run.run()
        finally:
            self._runs.discard(run)
            if self._claimed.get(run.call.id) is run:
                del self._claimed[run.call.id]

    def _on_claim(self, run: JobRun) -> None:
        before = self._claimed.get(run.call.id)
        if before is not None:
            self._keep(self._check(before))  # its model must not go on
        self._claimed[run.call.id] = run

    # What is said of them.

    def grant(self, credit: bus_pb2.Credit) -> None:
        """Readers let their calls go on."""
        for grant in credit.grants:
            run = self._claimed.get(grant.call)
            if run is not None and run.speaker is not None:
                run.speaker.grant(grant.up_to)

    def cancel(self, call: str) -> None:
        """Somebody says that nobody waits for a call any more."""
        run = self._claimed.get(call)
        if run is not None:
            self._keep(self._check(run))

    @staticmethod
    async def _check(run: JobRun) -> None:
        try:
            await run.check()
        except TransportError as e:
            log.warning("claim_not_checked", call=run.call.id, error=str(e))  # a cancel is said again on the next beat

    async def _check_all(self) -> None:
        """Stop what is no longer ours. To be done after a time in which we may have been taken for dead."""
        for run in list(self._runs):
            await self._check(run)

    # Which log and which queue there are.

    async def _look_around(self) -> None:
        connection = self._bus.connections
        before, self._log_name = self._log_name, await self._bus.generation(topology.LOG)
        self._queue_name = await self._bus.generation(topology.QUEUES[self._kind].stream)
        self._looked_at = connection
        if before and before != self._log_name:
            log.warning("log_made_anew", worker=self._kind)
        for run in list(self._runs):
            await run.move(self._log_name)  # also one that has claimed its call since, or could not be moved before

    async def _look_again(self) -> None:
        """A stream may be lost and made anew also without a reconnection: its server is perhaps not ours."""
        try:
            await self._look_around()
        except TransportError as e:
            log.debug("streams_not_seen", error=str(e))
        finally:
            self._looking = False

    async def _return(self) -> None:
        """There is a new connection. What ran meanwhile may have been given to somebody else."""
        await self._look_around()
        await self._check_all()

    # Time.

    def tick(self, now: float) -> None:
        """Keep the time of frames and jobs.

        Args:
            now: `time.monotonic()`.
        """
        s = self._settings
        if now - self._ticked > s.ack_wait_seconds - s.in_progress_seconds:
            # The process was frozen for so long that its jobs may be elsewhere. Their models must not go on.
            log.warning("worker_was_frozen", worker=self._kind, seconds=round(now - self._ticked, 1))
            self._keep(self._check_all())
        self._ticked = now
        if self.takes and not self._looking and now - self._looked >= LOOK_SECONDS and self._bus.connected:
            self._looking, self._looked = True, now
            self._keep(self._look_again())
        self.suspects.tick(now)
        for run in list(self._runs):
            run.tick(now)
        if now - self._held >= s.in_progress_seconds:
            self._held = now
            for run in self._runs:
                run.in_progress()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)
