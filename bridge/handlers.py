"""One handler for each kind of row. This is all that stands between gRPC and the bus.

Exceptions become a status in exactly one place, `Edge.serve`.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message

from qingyu_ai import routes
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.chunks import merge_encoded, shape_of
from qingyu_ai.bus.errors import Code, Expired, Fault, Invalid, NoWorker, Overloaded
from qingyu_ai.bus.handler import internal
from qingyu_ai.bus.reading import Reading
from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import ROUTES, Job, JobStream, Route, Rpc, StreamJob
from qingyu_ai.routes import Edge as EdgeRoute
from qingyu_ai.settings import Settings

from .admission import REQUEST_ID_KEY, Admitted, Incoming, admit, new_request_id, request_id_of
from .batch import Batch
from .control import Control
from .doors import Doors
from .health import Health
from .leaving import Leaving
from .metrics import Metrics, RouteMetrics
from .resume import Resume
from .rules import check_request_id
from .spans import in_spans

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]
Body = bytes | AsyncIterator[bytes]

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
DETAILS_KEY = "grpc-status-details-bin"

LOGGED = frozenset((Code.INTERNAL, Code.DATA_LOSS, Code.UNAVAILABLE))
"""Ends that an operator wants to see with their call id. Refusals of a full process are counted only: they come in floods."""

GRACE = 1.0
"""Seconds beyond its deadline for which a stream's caller may still take what is there. One without a deadline of its own, that
has stopped to read, would hold its call for ever."""


class Opened:
    """A call that has come in: its id is on its way back to the caller."""

    __slots__ = ("admitted", "began", "context", "metrics", "request_id")

    def __init__(self, context: Context, metrics: RouteMetrics) -> None:
        self.began = time.monotonic()
        self.context = context
        self.metrics = metrics
        self.request_id = ""
        self.admitted: Admitted | None = None


class Edge:
    """All handlers of a bridge process."""

    def __init__(self, caller: Caller, health: Health, settings: Settings, metrics: Metrics, doors: Doors) -> None:
        self._caller = caller
        self._doors = doors
        control = Control(caller)
        self._answers: dict[str, Callable[[str, Any], Awaitable[Message]]] = {
            routes.HEALTH_CHECK.path: lambda _, request: health.check(),
            routes.CANCEL.path: control.cancel,
            routes.DESCRIBE.path: control.describe,
        }
        """Of the rows that this process answers: (user, request) to the reply."""
        self._settings = settings
        self._metrics = metrics
        self._limit = settings.bridge.max_calls
        self._log_calls = settings.log.calls
        self._merge = settings.bus.merge
        self.open = 0
        self.arrived = 0
        """Calls so far, refused ones too."""
        self.leaving = Leaving(caller)

    def __repr__(self) -> str:
        return f"<Edge {self.open} of {self._limit} calls open>"

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """The table as gRPC handlers that take and give bytes."""
        return _Table({route.path: self._method(route) for route in ROUTES})

    def _method(self, route: Route[Any, Any]) -> grpc.RpcMethodHandler[bytes, bytes]:
        work: Callable[..., Awaitable[bytes | None]]
        match route:
            case Rpc():
                work, wrap = self._rpc, grpc.unary_unary_rpc_method_handler
            case Job():
                work, wrap = self._job, grpc.unary_unary_rpc_method_handler
            case StreamJob():
                work, wrap = self._stream, grpc.unary_stream_rpc_method_handler
            case JobStream():
                work, wrap = self._batch, grpc.stream_unary_rpc_method_handler
            case EdgeRoute():
                work, wrap = self._here, grpc.unary_unary_rpc_method_handler
            case _:
                raise TypeError(f"no handler for {route!r}")
        limit = math.ceil(self._limit * route.room)
        return wrap(functools.partial(in_spans(self.serve), route, work, self._metrics.of(route), limit))

    async def serve(
        self,
        route: Route[Any, Any],
        work: Callable[..., Awaitable[bytes | None]],
        metrics: RouteMetrics,
        limit: int,
        body: Body,
        context: Context,
    ) -> bytes | None:
        """Run one call: count it, and make every exception a status.

        Args:
            limit: calls open here, with this one, above which it is refused.
        """
        opened = Opened(context, metrics)
        code = Code.OK
        self.arrived += 1
        self.open += 1
        metrics.open[0] += 1
        try:
            if self.open > limit:
                self._metrics.refused.inc()
                raise Overloaded("This bridge is full", "服务繁忙", limit)
            return await work(route, body, opened)
        except Fault as fault:
            code = fault.code
            await self._abort(route, body, opened, fault)
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:
            code = Code.INTERNAL
            await self._abort(
                route, body, opened, internal("call_failed", method=route.method, request_id=opened.request_id)
            )
        finally:
            self.open -= 1
            seconds = time.monotonic() - opened.began
            metrics.open[0] -= 1
            metrics.codes[code].inc()
            metrics.seconds.observe(seconds)
            if self._log_calls or code in LOGGED:
                self._log(route, opened, code, seconds)
        return None

    def _log(self, route: Route[Any, Any], opened: Opened, code: Code, seconds: float) -> None:
        tell = log.warning if code in LOGGED else log.info
        tell(
            "call",
            method=route.method,
            code=code.name,
            ms=round(seconds * 1000, 1),
            request_id=opened.request_id,
            call=opened.admitted.envelope.call if opened.admitted else "",
        )

    async def _abort(self, route: Route[Any, Any], body: Body, opened: Opened, fault: Fault) -> None:
        if not opened.request_id:
            incoming = Incoming.of(opened.context.invocation_metadata())  # type: ignore[arg-type]
            await self._introduce(opened, request_id_of(route, body, incoming))
        await opened.context.abort(
            STATUS_CODES[int(fault.code)],
            fault.message,
            ((DETAILS_KEY, fault.status), (REQUEST_ID_KEY, opened.request_id)),
        )

    async def _introduce(self, opened: Opened, request_id: str) -> None:
        """Tell the caller the call's id."""
        opened.request_id = request_id
        await opened.context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))

    async def _admit(self, route: Route[Any, Any], body: bytes, opened: Opened) -> Admitted:
        context = opened.context
        metadata: Any = context.invocation_metadata()
        visitor = await self._doors.visitor(metadata)
        incoming, remaining = Incoming.of(metadata), context.time_remaining()
        opened.admitted = admitted = admit(route, body, incoming, remaining, self._settings, visitor=visitor)
        opened.request_id = request_id = admitted.envelope.request_id
        await context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))
        return admitted

    # One method for each kind of row.

    async def _rpc(self, route: Rpc[Any, Any], body: bytes, opened: Opened) -> bytes:
        admitted = await self._admit(route, body, opened)
        envelope = admitted.envelope
        if route is routes.CALL_TOOL:
            envelope = self._doors.proved(envelope, admitted.message.tool_name)  # type: ignore[attr-defined]
        return await self._caller.ask(route, route.subject_of(admitted.message), body, envelope)

    async def _job(self, route: Job[Any, Any], body: bytes, opened: Opened) -> bytes:
        admitted = await self._admit(route, body, opened)
        end = await self._run_job(route, body, admitted)
        self._trail(opened, end)
        return end.answer

    async def _run_job(self, route: Job[Any, Any], body: bytes, admitted: Admitted) -> bus_pb2.End:
        """Run one job to its end.

        Raises:
            Fault: it failed.
        """
        reading = await self._submit(route, body, admitted)
        with self.leaving.watch(reading, admitted):
            end = await reading.wait_end()
        if end.status:
            raise Fault.from_status(end.status)
        return end

    async def _stream(self, route: StreamJob[Any, Any], body: bytes, opened: Opened) -> None:
        admitted = await self._admit(route, body, opened)
        resume = Resume(route, admitted.resume_from) if admitted.resume_from else None
        if admitted.follows:
            reading = await self._caller.follow(route, admitted.envelope, begun=bool(admitted.resume_from))
        else:
            reading = await self._submit(route, body, admitted)
        with self.leaving.watch(reading, admitted):
            try:
                async with asyncio.timeout(admitted.envelope.deadline.remaining + GRACE):
                    shown = await self._show(route, reading, resume, opened)
            except TimeoutError:
                raise Expired from None
        end = reading.end
        assert end is not None, "a reading ends with an end or a fault"
        if resume is not None:
            resume.check_end(failed=bool(end.status))
            if not shown and not end.status:
                await self._caller.check_rest(reading)  # it is told that what it has is all
        if end.status:
            raise Fault.from_status(end.status)
        self._trail(opened, end)

    async def _show(self, route: StreamJob[Any, Any], reading: Reading, resume: Resume | None, opened: Opened) -> bool:
        """Show a caller what is said, as it can take it.

        Returns:
            Whether there was anything that it did not have.
        """
        context, metrics, shape = opened.context, opened.metrics, shape_of(route.reply)
        shown = False
        while chunks := await reading.take():
            if resume is not None:
                chunks = resume.trim(chunks)
                if not chunks:
                    continue
                if not shown:
                    await self._caller.check_rest(reading)
            if not shown:
                shown = True
                metrics.first_chunk.observe(time.monotonic() - opened.began)
            messages = merge_encoded(shape, chunks) if self._merge else [encoded for encoded, _ in chunks]
            for message in messages:
                await context.write(message)
            metrics.chunks.inc(len(messages))
            metrics.deltas.inc(sum([span for _, span in chunks]))
            self._caller.credit(reading)
        return shown

    async def _batch(self, route: JobStream[Any, Any], bodies: AsyncIterator[bytes], opened: Opened) -> bytes:
        assert route.item is not None, "a stream of jobs names its items' row"
        metadata: Any = opened.context.invocation_metadata()
        visitor = await self._doors.visitor(metadata)
        incoming = Incoming.of(metadata)
        wrong = check_request_id(REQUEST_ID_KEY, incoming.request_id) if incoming.request_id else ()
        if wrong:
            raise Invalid(*wrong)
        await self._introduce(opened, incoming.request_id or new_request_id())
        if not self._caller.presence.has(route.worker):
            raise NoWorker(route.worker)
        batch = Batch(route.item, self._run_job, self._settings, visitor)
        return await batch.run(bodies, opened.request_id, incoming, opened.context.time_remaining())

    async def _here(self, route: EdgeRoute[Any, Any], body: bytes, opened: Opened) -> bytes:
        admitted = await self._admit(route, body, opened)
        answer = await self._answers[route.path](admitted.envelope.user, admitted.message)
        return answer.SerializeToString()

    async def _submit(self, route: Route[Any, Any], body: bytes, admitted: Admitted) -> Reading:
        return await self._caller.submit(
            route,
            route.subject_of(admitted.message),
            body,
            admitted.envelope,
            chosen=admitted.chosen,
            begun=bool(admitted.resume_from),
        )

    @staticmethod
    def _trail(opened: Opened, end: bus_pb2.End) -> None:
        trailers = [(k, v) for k, v in end.trailers.items() if k.startswith("x-") and v.isascii() and v.isprintable()]
        opened.context.set_trailing_metadata((*trailers, (REQUEST_ID_KEY, opened.request_id)))


class _Table(grpc.GenericRpcHandler):
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._methods.get(handler_call_details.method)
