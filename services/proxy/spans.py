"""In whose trace a call of the AI system is, and the span that each asking of the bridge has.

A Python backend that imports `AIProxyService` and uses OpenTelemetry needs to do nothing: the span that is current where it
calls is the parent. OpenTelemetry is not imported for that: where nobody has, no span of it is current.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from qingyu_ai import tracing
from qingyu_ai.bus.fault import Code
from qingyu_ai.routes import Route
from qingyu_ai.tracing import Kind, names
from qingyu_ai.tracing.context import NOWHERE, TRACEPARENT, TRACESTATE, Context

from .errors import AIProxyError
from .who import Metadata

OPENTELEMETRY = "opentelemetry.trace"


def caller() -> Context:
    """In whose trace this task is: that of our own span, or of the backend's that is current."""
    span = tracing.current()
    if span.traceparent:
        return Context(span.traceparent, span.tracestate)
    api = sys.modules.get(OPENTELEMETRY)
    if api is None:
        return NOWHERE
    given = api.get_current_span().get_span_context()
    if not given.is_valid:
        return NOWHERE
    return Context(
        f"00-{given.trace_id:032x}-{given.span_id:016x}-{given.trace_flags:02x}", given.trace_state.to_header()
    )


class Asking:
    """One time that the bridge is asked, with its span if spans are recorded.

    It is never the current span: a stream is asked for inside an async generator, whose context is that of whoever reads it.

    Args:
        route: what is asked.
        trace: in whose trace.
    """

    __slots__ = ("_span", "metadata")

    def __init__(self, route: Route[Any, Any], trace: Context) -> None:
        self._span = tracing.OFF if not tracing.is_on() else _begun(route.path[1:], trace)
        parent = self._span.traceparent or trace.parent
        self.metadata: Metadata = ((TRACEPARENT, parent),) if parent else ()
        """What tells the bridge of it."""
        if parent and trace.state:
            self.metadata = (*self.metadata, (TRACESTATE, trace.state))

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self._span:
            self._tell(error)
            self._span.end()

    def _tell(self, error: BaseException | None) -> None:
        span = self._span
        match error:
            case None:
                span.set(names.RPC_STATUS, Code.OK.name)
            case AIProxyError(status=Code.CANCELLED) | asyncio.CancelledError() | GeneratorExit():
                span.set(names.RPC_STATUS, Code.CANCELLED.name)
                span.set(names.ERROR_TYPE, tracing.CANCELLED)
            case AIProxyError():
                # What does not hold in a request may be said back in the message; an answer that is an error may quote anybody.
                told = "" if error.status in (None, Code.INVALID_ARGUMENT) else error.english
                if error.status is None:  # it was answered, and the answer does not hold
                    span.fail(error.code, told)
                else:
                    span.set(names.RPC_STATUS, error.status.name)
                    span.fail(error.status.name, told)
            case _:
                span.failed(error)


def _begun(method: str, trace: Context) -> tracing.Span | tracing.Off:
    facts = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method}
    return tracing.span(method, Kind.CLIENT, facts, parent=trace.parent)
