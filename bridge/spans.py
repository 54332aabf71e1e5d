"""The span of a call at the edge. Where no spans are recorded, a call does not come through here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from qingyu_ai import tracing
from qingyu_ai.bus.errors import Code
from qingyu_ai.routes import Route
from qingyu_ai.tracing import Kind, Off, Span, names

from .admission import Incoming

ERRORS = frozenset(
    (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS)
)
"""Statuses that are an error of the server's, as the conventions of RPC spans have it; the others are its caller's."""

Serve = Callable[..., Awaitable[bytes | None]]


def in_spans(serve: Serve) -> Serve:
    """Serve each call within a span, if spans are recorded; see `Edge.serve` for the arguments."""
    if not tracing.is_on():
        return serve

    async def traced(route: Route[Any, Any], *rest: Any) -> bytes | None:
        context = rest[-1]
        parent = Incoming.of(context.invocation_metadata()).traceparent
        facts = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: route.path[1:]}
        span = tracing.span(route.path[1:], Kind.SERVER, facts, parent=parent)
        span.enter()
        cancelled = False
        try:
            return await serve(route, *rest)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            _tell(span, Code.CANCELLED if cancelled else _code(context), context)
            span.end()

    return traced


def _code(context: Any) -> Code:
    given = context.code()
    return Code(given.value[0] if isinstance(given, grpc.StatusCode) else given or 0)


def _tell(span: Span | Off, code: Code, context: Any) -> None:
    span.set(names.RPC_STATUS, code.name)
    if code is Code.CANCELLED:
        span.set(names.ERROR_TYPE, tracing.CANCELLED)
    elif code in ERRORS:
        details = context.details()
        span.fail(code.name, details.decode() if isinstance(details, bytes) else details or "")
    elif code:
        span.set(names.ERROR_TYPE, code.name)
