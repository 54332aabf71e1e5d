"""What a process tells its operators: logs, and an HTTP endpoint with /metrics, /healthz and /readyz.

The endpoint runs in threads of its own, so that it answers even while the event loop is busy.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from . import tracing
from .settings import Log

PLAIN = ("Content-Type", "text/plain; charset=utf-8")


def configure_logging(settings: Log, process: str, to: TextIO | None = None) -> None:
    """Send every log line of this process to one place, as JSON or for a person to read.

    Args:
        settings: level and format.
        process: written into each line.
        to: the place; None: standard output.
    """
    to = to or sys.stdout
    level = logging.getLevelName(settings.level.upper())

    def name_process(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    def name_trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if span := tracing.current():
            event["trace_id"], event["span_id"] = span.ids
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_trace,
        structlog.processors.add_log_level,
        name_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=to.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(to),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(to)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))  # libraries: what is wrong, not what they do


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Silent(WSGIRequestHandler):
    timeout = 5.0  # a client that sends nothing does not hold a thread for ever

    def log_message(self, format: str, *args: Any) -> None:
        """Requests of probes are no news."""


class Operations:
    """The HTTP endpoint for operators and probes.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        unready: why the process is not ready to serve; empty: it is.
        registry: of metrics.
    """

    def __init__(
        self, host: str, port: int, unready: Callable[[], str], registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._unready = unready
        self._metrics = make_wsgi_app(registry)
        self._server = make_server(host, port, self._app, server_class=_Server, handler_class=_Silent)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="operations", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _app(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                answer: Iterable[bytes] = self._metrics(environ, start)
                return answer
            case "/healthz":
                start("200 OK", [PLAIN])  # a list of its own: wsgiref adds to it
                return [b"alive\n"]
            case "/readyz":
                reason = self._unready()
                start("503 Service Unavailable" if reason else "200 OK", [PLAIN])
                return [(reason or "ready").encode() + b"\n"]
            case _:
                start("404 Not Found", [PLAIN])
                return [b"there are /metrics, /healthz and /readyz\n"]
