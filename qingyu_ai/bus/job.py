"""One job on one worker, from the claim to the acknowledgement. The order of the steps is the protocol:

claim · run, saying frames · last frame acknowledged · commit (compare-and-set to DONE) · End frame · follow-up · acknowledge
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message

from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import StreamJob
from qingyu_ai.settings import Bus as BusSettings

from . import record, topology
from .errors import (
    BusDown,
    Cancelled,
    Conflict,
    Expired,
    Fault,
    Internal,
    Interrupted,
    Invalid,
    PayloadTooLarge,
    TooLarge,
    TransportError,
)
from .fold import Position, Verdict, fold
from .handler import Call, Served, internal
from .headers import Envelope
from .record import Claim, Entry, JobMessage
from .records import Records
from .speaker import MAX_CHUNK, Speaker
from .transport import Bus, Delivery

log = structlog.get_logger(__name__)


class Stale(Exception):
    """Another worker has this call now. Say nothing more, acknowledge nothing."""


class JobRun:
    """One delivery of one job."""

    def __init__(
        self,
        bus: Bus,
        served: Served,
        delivery: Delivery,
        envelope: Envelope,
        worker: str,
        log_name: str,
        settings: BusSettings,
    ) -> None:
        self._bus = bus
        self._served = served
        self._delivery = delivery
        self._envelope = envelope
        self._worker = worker
        self._settings = settings
        self._records = Records(bus, settings)
        self._message = JobMessage(delivery.sequence, delivery.delivery, bytes.fromhex(envelope.digest), log_name)
        self.call = Call.of(envelope)
        self.speaker: Speaker | None = None
        self.on_claim: Callable[[], None] = lambda: None
        """Called once the call is this run's."""
        self._withdrawn = False
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

    def in_progress(self) -> None:
        """Keep the job."""
        self._delivery.in_progress()

    def withdraw(self) -> None:
        """The record was decided against this run: stop the handler. Later steps find out by themselves."""
        self._withdrawn = True
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
            return
        except (TransportError, Fault) as e:
            # The broker did not do its part: the job comes again, here or elsewhere, and whoever gets it reads the
            # record first.
            log.warning("job_put_back", call=self.call.id, error=str(e))
            self._delivery.nak(1.0)
            return
        except asyncio.CancelledError:
            self._delivery.nak()
            raise
        finally:
            if self.speaker is not None:
                self.speaker.close()
        self._served.counts.add(time.monotonic() - began, fault.message if fault else "")

    async def _run(self) -> Fault | None:
        claimed = await self._claim()
        if isinstance(claimed, Entry):
            await self._finish(claimed)
            return None
        if claimed is None:
            self._delivery.ack()
            return None
        epoch, before = claimed
        self.on_claim()
        speaker = self.speaker = Speaker(
            self._bus, self._envelope.inbox, epoch, self._worker, self._served.shape, self._settings
        )
        fault: Fault | None = None
        answer: Message | None = None
        try:
            self._task = asyncio.current_task()
            if self._withdrawn:
                raise asyncio.CancelledError
            if before.delivery > 1:
                await self._resume(speaker)
            answer = await self._handle(speaker)
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
            entry = await self._records.read(self.call.id)
            if entry is None or not entry.done:
                raise Stale from None
            # The bridge that decided the call does not know what the handler had to leave.
            await self._finish(entry, self.call.follow_up)
            return Cancelled()
        finally:
            self._task = None
        return await self._commit(speaker, epoch, before, answer, fault)

    async def _claim(self) -> tuple[int, bus_pb2.Record] | Entry | None:
        """Claim the call.

        Returns:
            (epoch, record) of the claim; the decided record if there is nothing to run; None: the message is to be dropped.
        """
        call = self.call.id
        if self.call.deadline.passed:
            return await self._expire()
        value = record.running(self._message)
        entry = None
        try:
            if self._delivery.delivery == 1:
                return await self._records.write(call, value, 0), value
        except Conflict:
            pass
        entry = await self._records.read(call)
        match record.claim(entry, self._message, self._settings.attempts):
            case Claim.FINISH:
                return entry
            case Claim.DROP:
                log.info("job_dropped", call=call, sequence=self._message.sequence)
                return None
            case Claim.STALE:
                raise Stale
            case _:
                try:
                    return await self._records.write(call, value, entry.revision if entry else 0), value
                except Conflict:
                    raise Stale from None

    async def _expire(self) -> Entry | None:
        """Nobody waits any more: decide the call without running it."""
        end = bus_pb2.End(status=Expired().status)
        value = record.decided(None, self._message.digest, end)
        try:
            return Entry(await self._records.write(self.call.id, value, 0), value)
        except Conflict:
            pass
        entry = await self._records.read(self.call.id)
        match record.claim(entry, self._message, self._settings.attempts):
            case Claim.FINISH:
                return entry
            case Claim.TAKE_OVER | Claim.BURY if entry is not None:
                value = record.decided(entry.record, self._message.digest, end)
                try:
                    return Entry(await self._records.write(self.call.id, value, entry.revision), value)
                except Conflict:
                    raise Stale from None
            case Claim.DROP:
                return None
            case _:
                raise Stale

    async def _resume(self, speaker: Speaker) -> None:
        """After a take-over: close the log to the worker before, and find out what it had said.

        Fence first, then fold: what a paused worker stores in between is closed out for everybody alike.

        Raises:
            Interrupted: something was said already, and this handler cannot go on with it.
        """
        fence = await speaker.fence()
        at, sequence = Position(), 1
        said: list[bytes] = []
        while sequence < fence:
            stored = await self._bus.next(
                topology.LOG, self._envelope.inbox, sequence, timeout=self._settings.store_seconds
            )
            if stored is None:
                raise TransportError("the log's replica lags behind the fence")
            if stored.sequence >= fence:
                break
            frame = bus_pb2.Frame.FromString(stored.data)
            at, verdict = fold(at, frame)
            if verdict in (Verdict.HOLE, Verdict.LOST):
                break
            if verdict is Verdict.SHOW:
                said.extend(frame.data.chunk)
            sequence = stored.sequence + 1
        speaker.start_at(at.next)
        if at.next and not self._served.continues:
            raise Interrupted
        if said:
            parse = self._served.route.reply.FromString
            self.call.said = tuple([parse(chunk) for chunk in said])
            log.info("call_taken_over", call=self.call.id, method=self._served.route.method, deltas=at.next)

    async def _handle(self, speaker: Speaker) -> Message | None:
        route = self._served.route
        try:
            request = route.request.FromString(self._delivery.data)
        except DecodeError:
            raise Invalid(("request", f"is no {route.request.DESCRIPTOR.full_name}")) from None
        limit = asyncio.timeout(self.call.deadline.remaining)
        try:
            async with limit:
                if isinstance(route, StreamJob):
                    await self._stream(speaker, self._served.handler(self.call, request))
                    return None
                answer: Message = await self._served.handler(self.call, request)
        except TimeoutError:
            if limit.expired():
                raise Expired from None
            raise self._internal() from None
        except Fault:
            raise
        except TransportError as e:
            raise BusDown.of(e) from None
        except Exception:
            raise self._internal() from None
        size = answer.ByteSize()
        if size > MAX_CHUNK:
            raise TooLarge("The answer", "回答", size, MAX_CHUNK)
        return answer

    async def _stream(self, speaker: Speaker, chunks: AsyncIterator[Message]) -> None:
        try:
            async for chunk in chunks:
                if not speaker.say(chunk):
                    await speaker.room()
        finally:
            # An async generator is not closed for us: the socket to the model would stay open.
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    def _internal(self) -> Internal:
        return internal("job_failed", call=self.call.id, method=self._served.route.method)

    async def _commit(
        self, speaker: Speaker, epoch: int, before: bus_pb2.Record, answer: Message | None, fault: Fault | None
    ) -> Fault | None:
        if fault is not None and not speaker.broken:
            try:
                await speaker.flush()  # never lose what was already produced
            except Fault as e:
                fault = e
        end = bus_pb2.End(count=speaker.next, trailers=self.call.trailers)
        if fault is not None:
            end.status = fault.status
        elif answer is not None:
            end.answer = answer.SerializeToString()
        value = record.decided(before, self._message.digest, end, self.call.follow_up)
        try:
            try:
                await self._records.write(self.call.id, value, epoch)
            except PayloadTooLarge as e:
                # Running it again would make the same answer, and the same bill. What was shown stays shown.
                fault = TooLarge("The answer with its turn of the session", "回答及其会话记录", e.size, e.limit)
                end = bus_pb2.End(status=fault.status, count=speaker.next, trailers=self.call.trailers)
                value = record.decided(before, self._message.digest, end)
                await self._records.write(self.call.id, value, epoch)
        except Conflict:
            entry = await self._records.read(self.call.id)
            if entry is None or not entry.done:
                raise Stale from None
            await self._finish(entry, self.call.follow_up)
            return fault
        if not speaker.broken:
            await speaker.end(end)
        await self._follow_up(value.follow_up)
        self._delivery.ack()
        return fault

    async def _finish(self, entry: Entry, left: bytes = b"") -> None:
        """Whoever finds a decided call finishes what remains of it."""
        if self.speaker is not None:
            self.speaker.close()
        # An epoch above every claim's, so that no reader takes the end for one of a replaced worker.
        last = Speaker(self._bus, self._envelope.inbox, entry.revision, self._worker, None, self._settings)
        last.start_at(entry.record.end.count)
        self.speaker = last
        await last.end(entry.record.end)
        await self._follow_up(entry.record.follow_up or left)
        self._delivery.ack()

    async def _follow_up(self, left: bytes) -> None:
        if left and self._served.follow_up is not None:
            try:
                await self._served.follow_up(self.call.id, left)
            except TransportError:
                raise
            except Exception:
                log.exception("follow_up_failed", call=self.call.id, method=self._served.route.method)
                raise TransportError("the follow-up failed") from None
