"""One job on one worker, from the claim to the acknowledgement. The order of the steps is the protocol:

claim · run, saying frames · last frame acknowledged · commit (compare-and-set to DONE) · End frame · follow-up · event ·
acknowledge
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from google.protobuf.message import Message

from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import StreamJob
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.tracing import OFF, Off, Span

from . import record, spans, topology
from .claiming import Claimant, Claimed, NotYet, Stale
from .dead import DeadLetters
from .errors import Cancelled, Fault, GaveUp, Internal, Interrupted, TooLarge
from .handler import Call, Served, Submission
from .handling import handle
from .headers import Envelope
from .observing import NOBODY, Decided, Observed, Observer
from .owner import owner_of
from .record import Entry, JobMessage
from .records import Records
from .speaker import Speaker
from .takeover import begins_here, head_is_dropped, said_before
from .transport import Bus, Delivery
from .transport_errors import Conflict, PayloadTooLarge, TransportError

log = structlog.get_logger(__name__)

GIVE_BACK_SECONDS = 1.0
"""For the word that a job is given back: the worker stops, or the broker does not answer anyway."""


@dataclass(frozen=True, slots=True)
class Station:
    """What all runs of one worker share."""

    bus: Bus
    records: Records
    dead_letters: DeadLetters
    worker: str
    """The worker's token."""
    settings: BusSettings
    observer: Observer = NOBODY


class JobRun:
    """One delivery of one job.

    Args:
        log_name, queue_name: which log and which queue there are now.
        alone: waits for a while until nothing else runs at this worker, and says whether that is so.
    """

    def __init__(
        self,
        station: Station,
        served: Served,
        delivery: Delivery,
        envelope: Envelope,
        log_name: str,
        queue_name: str,
        alone: Callable[[JobRun], Awaitable[bool]],
    ) -> None:
        self._station = station
        self._bus = station.bus
        self._settings = station.settings
        self._records = station.records
        self._served = served
        self._delivery = delivery
        self._envelope = envelope
        self._message = JobMessage(
            delivery.sequence,
            delivery.delivery,
            bytes.fromhex(envelope.digest),
            log_name,
            queue_name,
            envelope.reopens,
            envelope.inbox,
            owner_of(envelope.user),
        )
        self._alone = alone
        self.call = Call.of(envelope)
        self.call.submitted = Submission.of(queue_name, delivery.sequence)
        self.speaker: Speaker | None = None
        self._claim: Claimed | None = None
        """While the call is this run's and not decided."""
        self.on_claim: Callable[[], None] = lambda: None
        """Called once the call is this run's."""
        self._span: Span | Off = OFF
        self.on_answered: Callable[[], None] = lambda: None
        """Called once only its event and its acknowledgement are left: nobody waits for those."""
        self._withdrawn = self._adopted = self._resumed = False
        self._moved = ""
        """The log for which this has been asked already."""
        self._task: asyncio.Task[Any] | None = None
        """While the handler runs: what to cancel."""

    def __repr__(self) -> str:
        return (
            f"<JobRun {self._served.route.method} {self.call.id} delivery {self._delivery.delivery}: {self.speaker!r}>"
        )

    def tick(self, now: float) -> None:
        """Keep the time of the frames."""
        if self.speaker is not None:
            self.speaker.tick(now)

    def adopt(self, delivery: Delivery) -> bool:
        """Take a later delivery of the same message, if this is one: it came because we, or the broker, were away for a while.

        Nobody takes the call over from itself, unless the log does not hear it. Whoever adopts must `check`: another worker
        may have had it, and be lost too.
        """
        if self.speaker is not None and self.speaker.unheard:
            return False
        if delivery.sequence != self._message.sequence or delivery.delivery <= self._message.delivery:
            return False
        self._delivery, self._adopted = delivery, True
        return True

    def in_progress(self) -> None:
        """Keep the job."""
        self._delivery.in_progress()

    async def check(self) -> None:
        """Stop the handler if the record is no longer that of its claim: another worker has the call, or it is decided.

        The record is believed, not whoever said so. Raises TransportError if it cannot be read.
        """
        claim = self._claim
        if claim is None:
            return
        entry = await self._records.read(self.call.id, newest=True)
        if self._claim is claim and not claim.holds(entry):
            self._withdrawn = True
            if entry is not None and entry.record.delivery >= self._delivery.delivery:
                self._adopted = False  # a later delivery than ours has the call
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> None:
        """Do it all. Raises nothing but CancelledError, when the worker stops."""
        began = time.monotonic()
        # The run has a task of its own, so what a handler logs carries these, and nobody else's lines do.
        structlog.contextvars.bind_contextvars(call=self.call.id, request_id=self.call.request_id)
        try:
            fault = await self._run()
        except Stale:
            log.info("claim_lost", call=self.call.id, method=self._served.route.method)
            if self._adopted:
                self._delivery.nak()  # this delivery is nobody else's
            return
        except NotYet as e:
            self._delivery.nak(e.seconds)
            return
        except (TransportError, Fault) as e:
            # The broker did not do its part: the job comes again, here or elsewhere, and whoever gets it reads the
            # record first.
            log.warning("job_put_back", call=self.call.id, error=str(e))
            if await self._give_back():
                self._delivery.nak(1.0)
            return
        except asyncio.CancelledError:
            if await self._give_back():
                self._delivery.nak()
            raise
        finally:
            if self.speaker is not None:
                self.speaker.close()
        spans.worked(self._span, fault)
        self._served.counts.add(time.monotonic() - began, fault.message if fault else "")

    async def _give_back(self) -> bool:
        """Say in the record that this worker is not lost over the job. If that fails, it counts as lost.

        Returns:
            Whether the job is ours to give: the broker would take it from whoever has it by now.
        """
        claim, self._claim = self._claim, None
        if claim is None:
            spans.worked(self._span, None)
            return True
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                await claim.note(given_back=True)
            spans.worked(self._span, None, given_back=True)
        except Stale:
            return False
        except (TransportError, TimeoutError) as e:
            log.debug("not_given_back", call=self.call.id, error=str(e))
        return True

    async def no_longer_alone(self) -> None:
        """See `suspects.Suspect.no_longer_alone`."""
        if self._claim is not None:
            with contextlib.suppress(Stale, TransportError):  # then it is about to be lost or put back
                await self._claim.note(alone=False)

    async def move(self, log_name: str) -> None:
        """The log was lost and made anew. If all of this claim's text is in the new one, the record is to say so: those who
        have nothing of the text read it only in the log that the record names.

        Raises:
            TransportError: the log or the record cannot be reached.
        """
        claim, speaker = self._claim, self.speaker
        if claim is None or speaker is None or log_name in (claim.record.log, self._moved):
            return
        if claim.goes_on and not self._resumed:
            return  # what was said before is not known yet: this claim will find the new log by itself, and be given back
        timeout = self._settings.store_seconds
        if not speaker.next or await begins_here(self._bus, self._inbox(claim), claim.epoch, timeout):
            with contextlib.suppress(Stale):  # `check` finds out
                await claim.note(log=log_name)
        self._moved = log_name

    def _inbox(self, claim: Claimed) -> str:
        """Where the call speaks: where its first claim did."""
        return claim.record.inbox or self._envelope.inbox

    async def _run(self) -> Fault | None:
        claimant = Claimant(
            self._records,
            self.call.id,
            self.call.deadline,
            self._message,
            self._station.worker,
            self._settings,
            lambda: self._alone(self),
        )
        claim = await claimant.claim()
        if claim is None or (isinstance(claim, Entry) and record.other_body(claim.record, self._message.digest)):
            self._send_elsewhere()
            self._delivery.ack()
            return None
        if isinstance(claim, Entry):
            await self._finish(claim)
            return None
        self._claim = claim
        self.call.epoch = claim.epoch
        self._span = spans.working(self._delivery, self._envelope, claim)
        self.on_claim()
        speaker = self.speaker = Speaker(
            self._bus,
            self._inbox(claim),
            claim.epoch,
            self._station.worker,
            self._served.shape,
            self._settings,
            heeds_credit=isinstance(self._served.route, StreamJob),
        )
        self._watch(self._observed(claim.epoch), len(claim.record.claims))
        fault: Fault | None = None
        answer: Message | None = None
        try:
            self._task = asyncio.current_task()
            if claim.goes_on:
                await self._resume(speaker, claim)
            if claim.buried:
                raise GaveUp(claim.record.deaths)
            if speaker.next and not self._served.continues:
                raise Interrupted
            answer = await handle(self._served, self.call, self._delivery.data, speaker)
            await speaker.flush()
        except Fault as e:
            fault = e
        except asyncio.CancelledError:
            if not self._withdrawn:
                raise
            # The record says why. The task goes on, to acknowledge the job.
            task, self._task = self._task, None
            if task is not None:
                task.uncancel()
            await self._find_decided()
            return Cancelled()
        finally:
            self._task = None
        return await self._commit(speaker, claim, answer, fault)

    def _observed(self, epoch: int) -> Observed:
        return Observed.of(self._served.route, self._delivery.subject, self._envelope, epoch)

    def _watch(self, call: Observed, attempt: int) -> None:
        """Have told what the handler does."""
        observer, began, tools = self._station.observer, time.monotonic(), itertools.count(1)
        observer.started(call, self._station.worker, attempt)
        self.call.on_first_token = lambda: observer.first_token(call, time.monotonic() - began)
        self.call.on_tool = lambda tool, seconds, code: observer.tool_called(call, next(tools), tool, seconds, code)

    def _send_elsewhere(self) -> None:
        """The message is dropped: whoever stored it must not wait for a word in its own log."""
        frame = bus_pb2.Frame()
        frame.elsewhere.SetInParent()
        try:
            self._bus.publish(self._envelope.inbox, frame.SerializeToString())
        except TransportError as e:
            log.debug("elsewhere_not_said", call=self.call.id, error=str(e))  # the reader asks the record at its lease

    async def _resume(self, speaker: Speaker, claim: Claimed) -> None:
        """After a take-over: close the log to the worker before, and find out what it had said."""
        fence = await speaker.fence()
        inbox, held = self._inbox(claim), claim.record
        at, said, whole = await said_before(self._bus, inbox, fence, held.reopened, self._settings.store_seconds)
        if await self._bus.generation(topology.LOG) != self._message.log:
            # Lost between the claim and the fence. The next claim knows it from the record.
            raise TransportError("the log was made anew")
        missing = at.next < held.said or (not at.next and not whole)
        if not at.next and not missing:
            missing = await head_is_dropped(self._bus, held.claims[0].at_ms / 1000)
        if missing and not held.restarted:
            await claim.note(restarted=True)  # something was said, or may have been, that is not there any more
        speaker.start_at(at.next, sum(map(len, said)))
        self._resumed = True
        parts = self._served.parts
        if said and parts is not None:
            self.call.said = tuple([parts.FromString(chunk) for chunk in said])
            log.info("call_taken_over", call=self.call.id, method=self._served.route.method, deltas=at.next)

    async def _commit(
        self, speaker: Speaker, claim: Claimed, answer: Message | None, fault: Fault | None
    ) -> Fault | None:
        if fault is not None and not speaker.broken:
            try:
                await speaker.flush()  # never lose what was already produced
            except Fault as e:
                fault = e
        # A log that does not store any more may never hold what waits for it: who goes on later would miss that.
        count = speaker.stored if speaker.broken else speaker.next
        end = bus_pb2.End(count=count, trailers=self.call.trailers)
        if fault is not None:
            end.status = fault.status
        elif answer is not None:
            end.answer = answer.SerializeToString()
        if isinstance(fault, GaveUp | Internal):
            await self._station.dead_letters.put(self._delivery, self._envelope, claim.record, fault)
        try:
            try:
                entry = await claim.decide(end, self.call.follow_up)
            except PayloadTooLarge as e:
                # Running it again would make the same answer, and the same bill. What was shown stays shown.
                fault = TooLarge("The answer with its turn of the session", "回答及其会话记录", e.size, e.limit)
                end = bus_pb2.End(status=fault.status, count=count, trailers=self.call.trailers)
                entry = await claim.decide(end)
        except Conflict:
            await self._find_decided()
            return fault
        self._claim = None
        if not speaker.broken:
            await speaker.end(end)
        await self._follow_up(entry.record.follow_up, entry.revision)
        await self._let_go(entry)
        return fault

    async def _find_decided(self) -> None:
        """The claim does not hold any more: finish the call if it is decided.

        Raises:
            Stale: another worker has it.
        """
        self._claim = None
        entry = await self._records.read(self.call.id, newest=True)
        if entry is None or not entry.done:
            raise Stale from None
        # The bridge that decided the call does not know what the handler had to leave.
        await self._finish(entry, self._left(entry))

    def _left(self, entry: Entry) -> bytes:
        """What this run's handler left, if the call was decided while it was this run's: nobody was shown what others said."""
        held = entry.record
        mine = (held.job_seq, held.delivery) == (self._message.sequence, self._message.delivery)
        return self.call.follow_up if mine else b""

    async def _finish(self, entry: Entry, left: bytes = b"") -> None:
        """Whoever finds a decided call finishes what remains of it."""
        if self.speaker is not None:
            self.speaker.close()
        # An epoch above every claim's, so that no reader takes the end for one of a replaced worker.
        last = Speaker(self._bus, self._envelope.inbox, entry.revision, self._station.worker, None, self._settings)
        last.start_at(entry.record.end.count)
        self.speaker = last
        await last.end(entry.record.end)
        await self._follow_up(entry.record.follow_up or left, entry.revision)
        await self._let_go(entry)

    async def _let_go(self, entry: Entry) -> None:
        """The last step: tell how the call was decided, and only then let the queue forget it."""
        self.on_answered()
        call = self._observed(entry.record.epoch)
        await self._station.observer.decided(Decided(call, entry.revision, entry.record))
        self._delivery.ack()

    async def _follow_up(self, left: bytes, order: int) -> None:
        if left and self._served.follow_up is not None:
            try:
                await self._served.follow_up(self.call.id, left, order)
            except (TransportError, Fault):
                raise
            except Exception:
                log.exception("follow_up_failed", call=self.call.id, method=self._served.route.method)
                raise TransportError("the follow-up failed") from None
