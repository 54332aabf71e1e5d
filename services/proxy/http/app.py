"""The ASGI application: the table as paths, and every exception as one answer."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from services.proxy.errors import METHOD_NOT_ALLOWED, NO_UPGRADE, NOT_FOUND, AIProxyError

from . import openapi
from .answers import defect, error_response
from .face import ClientGone, Face
from .operations import OPERATIONS, WEBSOCKET, Operation
from .paths import Paths, sent_path
from .spans import InSpans, left, told
from .websocket import Socket

EXPOSED = ("X-Request-Id", "Location", "Retry-After")
ALLOWED = (
    *("Authorization", "Content-Type", "Last-Event-ID", "X-Request-Id", "X-Remaining-Ms"),
    *("X-User-Id", "X-Project-Id"),
    *("traceparent", "tracestate"),
)
PREFLIGHT_SECONDS = 600
READING = ("GET", "HEAD")

UNRECORDED = frozenset(op.path for op in OPERATIONS if op.public)
"""Paths that are asked every few seconds by who watches, and would be most of all spans."""


class Application:
    """All routes. Nothing stands before them but what a page of another origin needs.

    Args:
        face: what does the work.
    """

    def __init__(self, face: Face) -> None:
        self._face = face
        self._paths = Paths()
        for op in OPERATIONS:
            methods = READING if op.method == "GET" and not op.streams else (op.method,)
            self._paths.add(methods, op.path, _Endpoint(face, op))
        self._paths.add(READING, "/openapi.json", Response(openapi.document(), media_type="application/json"))
        self._paths.add(READING, "/docs", Response(openapi.page(), media_type="text/html; charset=utf-8"))
        no_upgrade = error_response(AIProxyError(NO_UPGRADE))
        no_upgrade.headers["Upgrade"] = "websocket"
        self._paths.add(READING, WEBSOCKET, no_upgrade)
        self._in_spans = InSpans(self._answer, self._row, heeds_callers=face.settings.heed_traceparent)
        self._for_pages = CORSMiddleware(
            self._route,
            allow_origins=face.settings.allowed_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=ALLOWED,
            expose_headers=EXPOSED,
            allow_credentials=True,
            max_age=PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self._in_spans(scope, receive, send)

    def _row(self, scope: Scope) -> str | None:
        """Which row of the table is asked, for spans: see `InSpans`."""
        row = self._paths.row(sent_path(scope))
        return None if row in UNRECORDED else row

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(WebSocket(scope, receive, send))
        elif any(name == b"origin" for name, _ in scope["headers"]):
            await self._page(scope, receive, send)
        else:
            await self._route(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Turn pages of other origins away before anything else is looked at."""
        try:
            self._face.doors.check_origin(Request(scope))
        except AIProxyError as e:
            await error_response(e)(scope, receive, send)
            return
        await self._for_pages(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = sent_path(scope)
        by_method, scope["path_params"] = self._paths.find(path)
        answer = by_method.get(scope["method"])
        if answer is None:
            answer = _wrong_method(by_method) if by_method else error_response(_no_path(path))
        await answer(scope, receive, send)

    async def _socket(self, socket: WebSocket) -> None:
        path = sent_path(socket.scope)
        if path == WEBSOCKET:
            await Socket(self._face, socket).serve()
        else:
            await socket.send_denial_response(error_response(_no_path(path)))


class _Endpoint:
    """One row. What is raised before an answer has begun becomes one."""

    def __init__(self, face: Face, operation: Operation) -> None:
        self._handler = getattr(face, operation.name)
        self._name = operation.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            response = await self._handler(Request(scope, receive, sending))
            await response(scope, receive, sending)
            return
        except AIProxyError as e:
            error = e
        except (ClientGone, ClientDisconnect):
            left()
            return
        except Exception:
            error = defect(operation=self._name)
        told(error)
        if not begun:
            await error_response(error)(scope, receive, sending)


def _no_path(path: str) -> AIProxyError:
    path = path[:128]
    return AIProxyError(NOT_FOUND, f"没有地址 {path}，见 /docs", f"There is no path {path}; see /docs")


def _wrong_method(by_method: dict[str, ASGIApp]) -> Response:
    response = error_response(AIProxyError(METHOD_NOT_ALLOWED))
    response.headers["Allow"] = ", ".join(sorted(by_method))
    return response
