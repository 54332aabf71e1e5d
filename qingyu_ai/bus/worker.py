"""The answering side: a process that serves rows of the table.

Rows are registered with plain handlers that never see the broker. The worker bounds how many calls run at once, refuses
what does not fit, drops what nobody waits for any more, keeps the time of frames and jobs, and drains when asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message

from qingyu_ai import __version__
from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import Job, Route, Rpc, StreamJob
from qingyu_ai.settings import Bus as BusSettings

from . import headers as wire
from . import record, subjects, topology
from .claiming import Stale
from .dead import DeadLetters
from .discovery import Announcement, Counts, Endpoint, Identity
from .errors import BusDown, Fault, Invalid, Overloaded, PayloadTooLarge, TooLarge, TransportError
from .handler import Call, FollowUp, Served, internal
from .headers import Envelope
from .job import JobRun, Station
from .records import Records
from .speaker import MAX_CHUNK
from .transport import Bus, Delivery, Headers, Puller, Subscription

log = structlog.get_logger(__name__)

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

TICK = 0.25
"""Seconds between looks at the clock."""

MAX_ATTEMPTS_UNREADABLE = 5
"""Deliveries after which a job with unreadable headers is given up."""

LOOK_SECONDS = 1.0
"""Between two looks at which log and which queue there are."""

OCCUPIED_SECONDS = 0.25
"""Until a job is delivered again that came to a worker which runs another one alone."""


class Worker:
    """One worker process.

    Args:
        bus: the broker.
        kind: `chat`, `agent`, `rag` or `tool`.
        settings: times and sizes of the protocol.
        slots: jobs that run at once, and as many rpc calls beside them.
        metadata: what the worker says of itself when asked who is there.
    """

    def __init__(
        self, bus: Bus, kind: str, settings: BusSettings, *, slots: int, metadata: dict[str, str] | None = None
    ) -> None:
        self._bus = bus
        self.kind = kind
        self._settings = settings
        self._slots = slots
        self.token = secrets.token_hex(6)
        self._served: dict[str, Served] = {}
        self._records = Records(bus, settings)
        self.dead_letters = DeadLetters(bus, self._records, settings)
        self._station = Station(bus, self._records, self.dead_letters, self.token, settings)
        self._runs: set[JobRun] = set()
        self._claimed: dict[str, JobRun] = {}
        """By call: the run that credit and cancel concern. Other deliveries of the call may be here, unclaimed."""
        self._rpcs: dict[str, asyncio.Task[None]] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._jobs: set[asyncio.Task[None]] = set()
        # Counted apart: a standing pull has asked for jobs already, up to its free slots, when an rpc call comes.
        self._checks: set[asyncio.Task[None]] = set()
        self._interests: list[Subscription] = []
        self._puller: Puller | None = None
        self._clock: asyncio.Task[None] | None = None
        self._log_name = self._queue_name = ""
        self._looked_at = 0
        """The connection over which these were learnt."""
        self._suspects: set[JobRun] = set()
        """Jobs that run alone here, or wait to. While there are any, no other is taken."""
        self._waiting: list[JobRun] = []
        """Of these: those that wait, in order."""
        self._alone: JobRun | None = None
        """The one that runs, and whose record says that it is alone."""
        self._room = asyncio.Condition()
        """Told whenever a job is over."""
        self.identity = Identity(
            kind,
            self.token,
            __version__,
            {"kind": kind, "protocol": str(wire.PROTOCOL), **(metadata or {})},
        )
        self._announcement = Announcement(bus, self.identity)
        self.draining = False
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
    def suspects(self) -> int:
        """Jobs that run alone here, or wait to."""
        return len(self._suspects)

    @property
    def waiting_deltas(self) -> int:
        """Deltas that wait for the log, over all calls."""
        return sum(run.speaker.waiting for run in self._runs if run.speaker is not None)

    @property
    def running(self) -> int:
        """Calls that run now."""
        return len(self._asked) + len(self._jobs)

    def observe(self, on_finished: Callable[[str, float], None]) -> None:
        """Have (method, seconds) of each finished call reported, for metrics."""
        self._on_finished = on_finished

    # Registration: the kind of row decides the handler's type.

    def rpc(self, route: Rpc[Req, Rep], handler: Callable[[Call, Req], Awaitable[Rep]], *, token: str = "") -> None:
        """Serve an rpc row.

        Args:
            token: serve only requests whose token field has this value (one tool).
        """
        self._serve(route, handler, None, token)

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
        self._interests.append(await self._bus.subscribe(f"{subjects.CANCEL}.*", self._on_cancel))
        self._interests.append(await self._bus.subscribe(subjects.credit(self.token), self._on_credit))
        for subject, served in self._served.items():
            if isinstance(served.route, Rpc):
                interest = f"{subject}.*" if served.route.token and subject == served.route.subject else subject
                self._interests.append(await self._bus.subscribe(interest, self._on_rpc, queue=self.kind))
        self._clock = asyncio.get_running_loop().create_task(self._keep_time())
        if any(isinstance(served.route, Job | StreamJob) for served in self._served.values()):
            await self.look_around()
            self._bus.on_reconnect(self._return)
            self._puller = await self._bus.pull(topology.QUEUES[self.kind], self._free, self._on_job)
        await self._announcement.start()
        log.info("worker_started", worker=self.kind, id=self.token, slots=self._slots)

    async def look_around(self) -> None:
        """Learn which log and which queue there are; to be done again after a reconnection, which may find new ones."""
        connection = self._bus.connections
        self._log_name = await self._bus.generation(topology.LOG)
        self._queue_name = await self._bus.generation(topology.QUEUES[self.kind].stream)
        self._looked_at = connection

    async def _return(self) -> None:
        """There is a new connection. What ran meanwhile may have been given to somebody else."""
        await self.look_around()
        await self.check_claims()

    async def check_claims(self) -> None:
        """Stop what is no longer ours. To be done after a time in which we may have been taken for dead."""
        for run in list(self._runs):
            await self._check(run)

    async def drain(self, seconds: float) -> None:
        """Take no new call, let those that run finish, then give back what is left.

        Args:
            seconds: how long the running calls may take.
        """
        self.draining = True
        log.info("worker_drains", worker=self.kind, running=self.running, seconds=seconds)
        await self._announcement.stop()
        if self._puller is not None:
            await self._puller.stop()
        cancel, credit, *rpcs = self._interests
        for interest in rpcs:
            await interest.stop()
        if self._asked or self._jobs:
            await asyncio.wait(self._asked | self._jobs, timeout=seconds)
        left = self._asked | self._jobs
        for task in left:
            task.cancel()
        if left:
            log.warning("worker_gives_back", worker=self.kind, calls=len(left))
            await asyncio.wait(left, timeout=2)
        for interest in (cancel, credit):
            await interest.stop()
        if self._clock is not None:
            self._clock.cancel()
        log.info("worker_stopped", worker=self.kind, id=self.token)

    def _free(self) -> int:
        return 0 if self.draining or self._suspects else self._slots - len(self._jobs)

    def _start(self, work: Any, method: str, among: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        began = time.monotonic()
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        among.add(task)

        def finished(task: asyncio.Task[None]) -> None:
            among.discard(task)
            self._on_finished(method, time.monotonic() - began)
            if self._suspects:
                self._keep(self._tell_room())
            if self._puller is not None:
                self._puller.renew()

        task.add_done_callback(finished)
        return task

    async def _keep_time(self) -> None:
        held = last = looked = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now, before = time.monotonic(), last
            last = now
            if now - before > self._settings.ack_wait_seconds - self._settings.in_progress_seconds:
                # The process was frozen for so long that its jobs may be elsewhere. Their models must not go on.
                log.warning("worker_was_frozen", worker=self.kind, seconds=round(now - before, 1))
                self._keep(self.check_claims())
            if self._puller is not None and now - looked >= LOOK_SECONDS and self._bus.connected:
                looked = now
                self._keep(self._look_again())
            for run in list(self._runs):
                run.tick(now)
            if now - held >= self._settings.in_progress_seconds:
                held = now
                for run in self._runs:
                    run.in_progress()

    # Jobs.

    def _on_job(self, delivery: Delivery) -> None:
        served = self._find(delivery.subject)
        try:
            if served is None:
                raise Invalid(("subject", f"no row of this worker: {delivery.subject}"))
            envelope = Envelope.from_headers(delivery.headers)
            if not (
                subjects.CALL_ID.fullmatch(envelope.call) and subjects.is_log(envelope.inbox, self.kind, envelope.call)
            ):
                raise Invalid(("headers", "call id or inbox malformed"))
            for held in self._runs:
                if held.call.id == envelope.call and held.adopt(delivery):
                    self._keep(self._check(held))
                    return
            run = JobRun(
                self._station, served, delivery, envelope, self._log_name, self._queue_name, self._wait_until_alone
            )
        except (Fault, ValueError) as e:
            # Perhaps a worker of another release can read it.
            log.warning("job_unreadable", subject=delivery.subject, error=str(e), delivery=delivery.delivery)
            if delivery.delivery < MAX_ATTEMPTS_UNREADABLE:
                delivery.nak(1.0)
            else:
                self._keep(self._give_up(delivery, e if isinstance(e, Fault) else Invalid(("headers", "malformed"))))
            return
        if self._suspects or self._looked_at != self._bus.connections:
            # It was on its way when a suspect came; or we do not know yet which queue it is in.
            delivery.nak(OCCUPIED_SECONDS)
            return
        self._start(self._run_job(run), served.route.method, self._jobs)

    async def _wait_until_alone(self, run: JobRun) -> bool:
        """A job over which workers were lost runs when nothing else does, so that it ends nobody but itself.

        It waits for a lease at most: what runs here may itself wait for this job, for its turn in a session.

        Returns:
            Whether it is alone.
        """
        self._suspects.add(run)
        self._waiting.append(run)
        await self._tell_room()
        log.warning("suspect_waits", call=run.call.id, running=len(self._jobs) - 1)
        try:
            async with asyncio.timeout(self._settings.lease_seconds), self._room:
                # What waits behind it has not begun; everything else runs to its end.
                await self._room.wait_for(lambda: self._waiting[0] is run and len(self._jobs) == len(self._waiting))
            self._alone = run
            return True
        except TimeoutError:
            if self._alone is not None:
                with contextlib.suppress(Stale):
                    await self._alone.note_in_record(alone=False)  # from now on it is not
                self._alone = None
            return False
        finally:
            self._waiting.remove(run)

    async def _give_up(self, delivery: Delivery, fault: Fault) -> None:
        """Decide a call that no worker of this release can read, so that its caller need not wait for the deadline."""
        decided = True
        call = (delivery.headers or {}).get(wire.CALL, "")
        if subjects.CALL_ID.fullmatch(call):
            end = bus_pb2.End(status=fault.status)
            try:
                digest = bytes.fromhex((delivery.headers or {}).get(wire.DIGEST, ""))
                entry = await self._records.read(call, newest=True)
                if entry is None or not entry.done:
                    value = record.decided(entry.record if entry else None, digest, end)
                    await self._records.write(call, value, entry.revision if entry else 0)
            except (TransportError, ValueError) as e:
                log.warning("job_not_decided", call=call, error=str(e))
                decided = False
        if decided:
            delivery.term()
        else:
            delivery.nak(1.0)

    async def _run_job(self, run: JobRun) -> None:
        self._runs.add(run)
        run.on_claim = lambda: self._on_claim(run)
        try:
            await run.run()
        finally:
            self._runs.discard(run)
            if self._claimed.get(run.call.id) is run:
                del self._claimed[run.call.id]
            self._suspects.discard(run)
            if self._alone is run:
                self._alone = None

    def _on_claim(self, run: JobRun) -> None:
        before = self._claimed.get(run.call.id)
        if before is not None:
            self._keep(self._check(before))  # its model must not go on
        self._claimed[run.call.id] = run

    def _on_credit(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        for grant in bus_pb2.Credit.FromString(data).grants:
            run = self._claimed.get(grant.call)
            if run is not None and run.speaker is not None:
                run.speaker.grant(grant.up_to)

    def _on_cancel(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        call = subject.rpartition(".")[2]
        rpc = self._rpcs.get(call)
        if rpc is not None:
            rpc.cancel()
        run = self._claimed.get(call)
        if run is not None:
            self._keep(self._check(run))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _look_again(self) -> None:
        """A stream may be lost and made anew also without a reconnection: its server is perhaps not ours."""
        try:
            await self.look_around()
        except TransportError as e:
            log.debug("streams_not_seen", error=str(e))

    async def _tell_room(self) -> None:
        async with self._room:
            self._room.notify_all()

    @staticmethod
    async def _check(run: JobRun) -> None:
        try:
            await run.check()
        except TransportError as e:
            log.warning("claim_not_checked", call=run.call.id, error=str(e))  # a cancel is said again on the next beat

    # Rpc.

    def _on_rpc(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        served = self._find(subject)
        if served is None or not reply:
            return
        if self.draining or len(self._asked) >= self._slots:
            self._refuse(
                reply,
                Overloaded(f"This {self.kind} worker is busy", f"{self.kind} 服务繁忙", self._slots, retry_seconds=0.2),
            )
            return
        try:
            envelope = Envelope.from_headers(headers)
        except Fault as e:
            self._refuse(reply, e)
            return
        if envelope.deadline.passed:
            log.info("rpc_expired", call=envelope.call, method=served.route.method)
            return
        task = self._start(self._run_rpc(served, envelope, reply, data), served.route.method, self._asked)
        self._rpcs[envelope.call] = task

    async def _run_rpc(self, served: Served, envelope: Envelope, reply: str, data: bytes) -> None:
        began = time.monotonic()
        error = ""
        try:
            async with asyncio.timeout(envelope.deadline.remaining):
                answer = await self._answer(served, envelope, data)
            self._bus.publish(reply, answer)
        except TimeoutError:
            error = "deadline exceeded"  # the caller knows by its own clock
        except PayloadTooLarge as e:
            self._refuse(reply, TooLarge("The answer", "回答", e.size, MAX_CHUNK))
            error = "answer too large"
        except TransportError as e:
            log.warning("rpc_answer_lost", call=envelope.call, error=str(e))
            error = str(e)
        except Fault as e:
            self._refuse(reply, e)
            error = e.message
        finally:
            self._rpcs.pop(envelope.call, None)
            served.counts.add(time.monotonic() - began, error)

    async def _answer(self, served: Served, envelope: Envelope, data: bytes) -> bytes:
        try:
            request = served.route.request.FromString(data)
        except DecodeError:
            raise Invalid(("request", f"is no {served.route.request.DESCRIPTOR.full_name}")) from None
        try:
            answer: Message = await served.handler(Call.of(envelope), request)
        except Fault:
            raise
        except TransportError as e:
            raise BusDown.of(e) from None
        except Exception:
            raise internal("rpc_failed", call=envelope.call, method=served.route.method) from None
        encoded = answer.SerializeToString()
        if len(encoded) > MAX_CHUNK:
            raise TooLarge("The answer", "回答", len(encoded), MAX_CHUNK)
        return encoded

    def _refuse(self, reply: str, fault: Fault) -> None:
        sentence = " ".join(fault.message.split())[:256]  # a header is one line
        block = wire.encode({wire.ERROR: sentence, wire.ERROR_CODE: str(int(fault.code))})
        try:
            self._bus.publish(reply, fault.status, headers=block)
        except TransportError as e:
            log.warning("rpc_answer_lost", error=str(e))
