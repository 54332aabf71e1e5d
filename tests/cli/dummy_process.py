"""Behaves as the bridge and the chat worker do towards `up`: settings, /readyz, JSON lines, SIGTERM. It has no bus.

    python -m tests.cli.dummy_bridge
    python -m tests.cli.dummy_chat

DUMMY_FAULT breaks it: `dies` (at once), `chat refuses` (its settings), `never ready` (the demo then gives up early, with
`never ready, patiently` it waits as it would for a person), `ignores SIGTERM`, `bridge ignores SIGTERM` alone, `no wheel` of
PostgreSQL, or one of the fake agent's faults.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qingyu_ai.settings import Settings

FAULT = "DUMMY_FAULT"


def log(event: str, **fields: object) -> None:
    """Log as structlog does."""
    record = {"event": event, "level": "info", "timestamp": "2025-01-01T00:00:00Z", **fields}
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def run(name: str, settings: Settings, metrics_port: int) -> None:
    """Answer on the metrics port until SIGTERM."""
    fault = os.environ.get(FAULT, "")
    if fault == "dies":
        sys.exit(f"{name} has no heart")
    if fault == f"{name} refuses":
        log("address_taken", level="error", error=f"set QINGYU_{name.upper()}__PORT to a free one")
        sys.exit(2)
    stop = threading.Event()
    ignores = fault in ("ignores SIGTERM", f"{name} ignores SIGTERM")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignores else lambda *_: stop.set())

    class Operations(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if fault.startswith("never ready") else 200)
            self.end_headers()
            self.wfile.write(f"{name} loads its model".encode())

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", metrics_port), Operations) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        log(f"{name} is ready", nats=settings.nats.servers, data_dir=str(settings.data_dir), port=metrics_port)
        # With a timeout, because the kernel may hand the signal to a thread of the server, which does not wake this one.
        while not stop.wait(0.05):
            pass
        server.shutdown()
    log(f"{name} has drained")
