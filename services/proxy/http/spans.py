"""The span of each request and each WebSocket: what its caller has, from its first byte to its last.

Where no spans are recorded, the trace that a caller is in goes on to the bridge all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qingyu_ai import tracing
from qingyu_ai.tracing import Kind, names
from qingyu_ai.tracing.context import NOWHERE, TRACEPARENT, TRACESTATE, Context, context_of
from services.proxy.errors import CANCELLED, AIProxyError

PARENT, STATE = TRACEPARENT.encode(), TRACESTATE.encode()

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
OTHER, OTHER_NAME = "_OTHER", "HTTP"
"""Of a method that is none of these, so that nobody can make as many names as he likes."""

STATUSES = {"http.response.start": 0, "websocket.http.response.start": 0, "websocket.accept": 101}
"""Messages of ASGI that begin an answer; 0: they say their status themselves."""


class InSpans:
    """Runs an application within spans.

    Args:
        app: the application.
        route: finds the path with its parameters in braces; empty: there is no such path, None: it is not to be recorded.
        heeds_callers: the traces that callers name go on here; otherwise each call begins one.
    """

    def __init__(self, app: ASGIApp, route: Callable[[Scope], str | None], *, heeds_callers: bool) -> None:
        self._app = app
        self._route = route
        self._heeds_callers = heeds_callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        context = given(scope) if self._heeds_callers else NOWHERE
        if tracing.is_on() and (route := self._route(scope)) is not None:
            await self._recorded(route, context, scope, receive, send)
            return
        if context.parent:
            tracing.Passing(context).enter()  # until the end of this task, which is the request's own
        await self._app(scope, receive, send)

    async def _recorded(self, route: str, context: Context, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method", "GET")
        known = method if method in METHODS else OTHER
        facts = {names.HTTP_METHOD: known, names.HTTP_ROUTE: route} if route else {names.HTTP_METHOD: known}
        name = f"{method if method in METHODS else OTHER_NAME} {route}".rstrip()

        async def noting(message: Message) -> None:
            status = STATUSES.get(message["type"])
            if status is not None:
                span.set(names.HTTP_STATUS, status or message["status"])
            await send(message)

        with tracing.span(name, Kind.SERVER, facts, parent=context.parent, tracestate=context.state) as span:
            await self._app(scope, receive, noting)


def given(scope: Scope) -> Context:
    """Read in whose trace a request is."""
    parents, states = [], []
    for name, value in scope["headers"]:
        if name == PARENT:
            parents.append(value.decode("latin-1"))
        elif name == STATE:
            states.append(value.decode("latin-1"))
    return context_of(parents, states) if parents else NOWHERE


def told(error: AIProxyError) -> None:
    """Say in the span of this request what its caller is told, also inside of a stream."""
    span = tracing.current()
    if error.kind is CANCELLED:
        span.set(names.ERROR_TYPE, tracing.CANCELLED)
    elif error.http_status < 500:
        span.set(names.ERROR_TYPE, error.code)
    else:
        # An answer of the system that is itself an error, such as an agent's, may quote what a user wrote or a model said.
        span.fail(error.code, "" if error.status is None else error.english)


def left() -> None:
    """Say in the span of this request that its caller has gone."""
    tracing.current().set(names.ERROR_TYPE, tracing.CANCELLED)
