"""uvicorn around the application: how it listens, and what it takes from slow or talkative clients."""

from __future__ import annotations

import asyncio
import http
import logging
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from qingyu_ai.process import AddressTaken
from qingyu_ai.settings import Proxy
from services.proxy.errors import SLOW_CLIENT, VALIDATION, AIProxyError, Kind

from .answers import error_body

QUIET = frozenset(
    (
        "ASGI callable returned without completing handshake.",  # a WebSocket was refused with an answer
        "Invalid UTF-8 sequence received from client.",  # with a traceback; the client is told 1007
    )
)
"""What uvicorn 0.54 logs as errors, and clients do."""


class _Refusals(logging.Filter):
    """Leaves `QUIET` out: what clients do wrong is answered, not logged, or they could fill the disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        return record.msg not in QUIET


HEAD_BYTES = 32 * 1024
"""Of a request's line and headers together; a ticket may have 16 KiB."""

PING_SECONDS = 20.0
"""Between two pings of a WebSocket, and until its answer."""

BACKLOG = 1024
REFUSALS = _Refusals()
HEAD_TOO_LARGE = Kind("TOO_LARGE", 431)


def protocol_of(settings: Proxy) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with bounds for the head of a request, which it has none for."""

    class Bounded(HttpToolsProtocol):
        """Ends connections whose request does not begin."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._in_head = False
            self._head_bytes = 0
            self._head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    english = f"The head of the request is larger than the limit of {HEAD_BYTES} bytes"
                    self._refuse(AIProxyError(HEAD_TOO_LARGE, f"请求头超过上限 {HEAD_BYTES} 字节", english))

        def on_message_begin(self) -> None:
            self._in_head = True
            self._head_bytes = 0
            self._start_timer()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_timer()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse(AIProxyError(VALIDATION, "不是有效的 HTTP 请求", "This is no valid HTTP request"))

        def _start_timer(self) -> None:
            self._stop_timer()
            self._head_timer = self.loop.call_later(settings.head_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._start_timer()  # the answer to the request before is still on its way
            elif self._in_head:
                self._refuse(AIProxyError(SLOW_CLIENT))
            else:
                self.transport.close()  # it has asked for nothing

        def _refuse(self, error: AIProxyError) -> None:
            self._stop_timer()
            if self.transport.is_closing():
                return
            body = error_body(error)
            head = (
                f"HTTP/1.1 {error.http_status} {http.HTTPStatus(error.http_status).phrase}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return Bounded


def listen(settings: Proxy) -> socket.socket:
    """Take the address.

    Raises:
        AddressTaken: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.processes > 1:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        raise AddressTaken(
            f"cannot listen on {settings.host}:{settings.port} ({e.strerror}); set QINGYU_PROXY__PORT or QINGYU_PROXY__HOST"
        ) from None
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """uvicorn, which leaves signals to `qingyu_ai.process`."""

    def __init__(self, app: ASGIApp, settings: Proxy) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_of(settings),
                ws="websockets-sansio",
                ws_max_size=settings.max_message_bytes,
                ws_ping_interval=PING_SECONDS,
                ws_ping_timeout=PING_SECONDS,
                ws_per_message_deflate=False,  # a few bytes for much CPU
                lifespan="off",
                reset_contextvars=True,  # or a pipelined request begins in the trace of the one before
                log_config=None,
                log_level="error",  # what clients do wrong is answered, not logged
                access_log=False,
                server_header=False,
                headers=[("X-Content-Type-Options", "nosniff")],
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=75,  # beyond nginx's own minute, so that it is nginx who hangs up
                timeout_graceful_shutdown=int(settings.drain_seconds),
                loop="none",
            )
        )
        logging.getLogger("uvicorn.error").addFilter(REFUSALS)  # once, however many servers there are

    async def run_until(self, stop: asyncio.Event, listener: socket.socket) -> None:
        """Serve until told to stop, then drain."""
        serving = asyncio.get_running_loop().create_task(self._serve([listener]))
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self.should_exit = True
        stopping.cancel()
        await serving
