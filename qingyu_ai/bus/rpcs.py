"""The calls of rpc rows at one worker: which it takes, what becomes of them, what is replied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError, Message

from . import headers as wire
from . import spans
from .answering import Answering
from .errors import BusDown, Cancelled, Expired, Fault, Invalid, Overloaded, TooLarge
from .handler import Call, Served, internal
from .headers import Envelope
from .jobs import OnFinished
from .observing import Observed, Observer
from .speaker import MAX_CHUNK
from .transport import Bus, Headers
from .transport_errors import PayloadTooLarge, TransportError

log = structlog.get_logger(__name__)


class Rpcs:
    """Answers requests, never more at once than there are slots.

    Args:
        kind: of worker.
        slots: calls that run at once.
        find: the row that is served under a subject.
        on_finished: told of each call that is over.
        observer: told what happens to them.
    """

    def __init__(
        self,
        bus: Bus,
        kind: str,
        slots: int,
        find: Callable[[str], Served | None],
        on_finished: OnFinished,
        observer: Observer,
    ) -> None:
        self._bus = bus
        self._kind = kind
        self._slots = slots
        self._find = find
        self._on_finished = on_finished
        self._observer = observer
        self.answering = Answering(kind)
        self.takes = True
        """Whether it answers more than those that run."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, asyncio.Task[None]] = {}
        """By call."""

    def __repr__(self) -> str:
        return f"<Rpcs {len(self.tasks)} of {self._slots} slots>"

    def __len__(self) -> int:
        return len(self.tasks)

    def cancel(self, call: str) -> None:
        """Nobody waits for a call any more."""
        task = self._running.get(call)
        if task is not None:
            task.cancel()

    def on_request(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        """Take a request, or refuse it."""
        served = self._find(subject)
        if served is None or not self.answering.may(subject, reply):
            return
        if not self.takes or len(self.tasks) >= self._slots:
            self._refuse(
                reply,
                Overloaded(
                    f"This {self._kind} worker is busy", f"{self._kind} 服务繁忙", self._slots, retry_seconds=0.2
                ),
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
        call = Observed.of(served.route, subject, envelope)
        task = asyncio.get_running_loop().create_task(self._run(served, call, reply, data))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self._running[envelope.call] = task

    async def _run(self, served: Served, call: Observed, reply: str, data: bytes) -> None:
        began, envelope = time.monotonic(), call.envelope
        error = ""
        fault: Fault | None = None
        try:
            async with asyncio.timeout(envelope.deadline.remaining):
                answer = await spans.answering(served.route, envelope, self._answer(served, envelope, data))
            self._bus.publish(reply, answer)
        except TimeoutError:
            error, fault = "deadline exceeded", Expired()  # the caller knows by its own clock
        except asyncio.CancelledError:
            fault = Cancelled()
            raise
        except PayloadTooLarge as e:
            fault = TooLarge("The answer", "回答", e.size, MAX_CHUNK)
            self._refuse(reply, fault)
            error = "answer too large"
        except TransportError as e:
            log.warning("rpc_answer_lost", call=envelope.call, error=str(e))
            error, fault = str(e), BusDown.of(e)
        except Fault as e:
            self._refuse(reply, e)
            error, fault = e.message, e
        finally:
            self._running.pop(envelope.call, None)
            seconds = time.monotonic() - began
            served.counts.add(seconds, error)
            self._on_finished(served.route.method, seconds)
            self._observer.asked(call, seconds, fault)

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
