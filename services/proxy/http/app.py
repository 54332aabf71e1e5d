"""The ASGI application: the table as routes, and every exception as one answer."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.proxy.errors import METHOD_NOT_ALLOWED, NOT_FOUND, AIProxyError

from . import openapi
from .answers import defect, error_response
from .face import ClientGone, Face
from .operations import OPERATIONS, WEBSOCKET, Operation
from .websocket import websocket

EXPOSED = ("X-Request-Id", "Location", "Retry-After")
ALLOWED = (
    *("Authorization", "Content-Type", "Last-Event-ID", "X-Request-Id", "X-Remaining-Ms"),
    *("X-User-Id", "X-Project-Id"),
)
PREFLIGHT_SECONDS = 600


def application(face: Face) -> ASGIApp:
    """Make the application."""
    document, page = openapi.document(), openapi.page()
    routes: list[Any] = [Route(op.path, _Endpoint(face, op), methods=[op.method]) for op in OPERATIONS]
    routes += [
        Route("/openapi.json", lambda _: Response(document, media_type="application/json"), methods=["GET"]),
        Route("/docs", lambda _: Response(page, media_type="text/html; charset=utf-8"), methods=["GET"]),
        WebSocketRoute(WEBSOCKET, websocket(face)),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _other_path})
    app.router.redirect_slashes = False
    with_cors = CORSMiddleware(
        app,
        allow_origins=face.settings.allowed_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=ALLOWED,
        expose_headers=EXPOSED,
        allow_credentials=True,
        max_age=PREFLIGHT_SECONDS,
    )
    return _Origins(face, with_cors)


class _Origins:
    """Turns pages of other origins away before anything else is looked at."""

    def __init__(self, face: Face, app: ASGIApp) -> None:
        self._face = face
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            try:
                self._face.doors.check_origin(request)
            except AIProxyError as e:
                await error_response(e)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Endpoint:
    """One row. What is raised before an answer has begun becomes one."""

    def __init__(self, face: Face, operation: Operation) -> None:
        self._handler = getattr(face, operation.name)
        self._name = operation.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            response = await self._handler(Request(scope, receive, sending))
            await response(scope, receive, sending)
            return
        except AIProxyError as e:
            error = e
        except (ClientGone, ClientDisconnect):
            return
        except Exception:
            error = defect(operation=self._name)
        if not begun:
            await error_response(error)(scope, receive, sending)


async def _other_path(request: Request, error: Exception) -> Response:
    """A path or a method that no row has."""
    assert isinstance(error, HTTPException)
    if error.status_code == METHOD_NOT_ALLOWED.http:
        response = error_response(AIProxyError(METHOD_NOT_ALLOWED))
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
        return response
    path = request.url.path[:128]
    return error_response(AIProxyError(NOT_FOUND, f"没有地址 {path}，见 /docs", f"There is no path {path}; see /docs"))


def _methods(request: Request) -> set[str]:
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found
