"""What traces cost the AI Proxy while they are off: its own calls with and without the places that could begin a span.

One process, whose CPU is counted, has HTTP face (as ASGI) and gRPC client; bridge and echo worker have their own.

.venv/bin/python -m bench.proxy_traces
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import os
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import uvloop
from starlette.types import ASGIApp, Message

from bench.measuring import console, environment
from bench.processes import Processes
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.routes import CHAT
from qingyu_ai.settings import AiProxy, Proxy
from qingyu_ai.tracing.context import NOWHERE
from services.proxy import calling, connection
from services.proxy.http.app import Application
from services.proxy.http.doors import Doors
from services.proxy.http.face import Face
from services.proxy.http.spans import given
from services.proxy.http.tickets import Tickets
from services.proxy.service import AIProxyService
from services.proxy.spans import Asking, caller
from services.proxy.who import NOBODY

BODY = json.dumps({"messages": [{"role": "user", "content": "夜雨"}]}).encode()
HEADERS = [
    (b"host", b"127.0.0.1:8080"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"x-user-id", b"u1"),
    (b"accept", b"*/*"),
    (b"user-agent", b"bench"),
]
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/api/v1/ai/chat",
    "raw_path": b"/api/v1/ai/chat",
    "query_string": b"",
}


class _Nothing:
    """An asking without a span or a word of traces, as it was before there were any."""

    metadata = ()

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def without() -> Iterator[None]:
    """Take the places out that could begin a span, or look for one."""
    plain = functools.partial(calling.Logical, trace=NOWHERE)
    with patch.object(connection, "Asking", _Nothing), patch("services.proxy.service.Logical", plain):
        yield


async def call(app: ASGIApp) -> None:
    """Make one call, and see that it was answered."""
    sent = iter((_body(),))
    status = 0

    async def receive() -> Message:
        for message in sent:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await app({**SCOPE, "headers": HEADERS}, receive, send)
    assert status == 200, status


def _body() -> Message:
    return {"type": "http.request", "body": BODY, "more_body": False}


async def cpu(app: ASGIApp, calls: int) -> float:
    """CPU seconds of this process for a call, 8 at a time."""

    async def some() -> None:
        for _ in range(calls // 8):
            await call(app)

    gc.collect()
    before = time.process_time()
    await asyncio.gather(*(some() for _ in range(8)))
    return (time.process_time() - before) / (calls // 8 * 8)


def hooks() -> None:
    """Print what each of these places costs by itself."""
    trace = calling.Logical(CHAT, None, NOBODY, "r").trace
    places: dict[str, Callable[[], object]] = {
        "headers of a request": lambda: given({"headers": HEADERS}),
        "trace of a call": caller,
        "one asking": lambda: Asking(CHAT, trace).__exit__(None, None, None),
    }
    for name, place in places.items():
        rounds = timeit.repeat(place, number=100_000, repeat=5)
        console.print(f"{name}, off: {statistics.median(rounds) / 100_000 * 1e6:.2f} µs")


async def main(arguments: argparse.Namespace) -> None:
    """Measure in turns, and print the medians."""
    console.print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    hooks()
    with Processes() as processes:
        port, metrics = free_ports(2)
        env = environment(processes.nats(), port, metrics, QINGYU_BRIDGE__EXPECTED_WORKERS='["chat"]')
        processes.module("bridge", "bridge", env=env)
        processes.module("chat", "bench.echo_worker", env={**env, "ECHO_KIND": "chat"})
        processes.wait_ready("bridge", metrics)
        settings = AiProxy(python_addr=f"127.0.0.1:{port}", rate_limit=1_000_000)
        service = await AIProxyService.start(settings)
        own, tickets = Proxy(port=0), Tickets("")
        app = Application(Face(service, own, Doors(own, tickets), tickets))
        bare: Callable[..., Any] = app._answer  # what stands behind the spans
        await cpu(app, arguments.calls)
        rounds: dict[str, list[float]] = {"with": [], "without": [], "without again": []}
        for at in range(arguments.rounds):
            order = list(rounds) if at % 2 else list(rounds)[::-1]
            for name in order:
                if name == "with":
                    rounds[name].append(await cpu(app, arguments.calls))
                else:
                    with without():
                        rounds[name].append(await cpu(bare, arguments.calls))
        await service.close()
    base = statistics.median(rounds["without"])
    for name, found in rounds.items():
        low, median, high = (f(found) * 1e6 for f in (min, statistics.median, max))
        console.print(
            f"{name:14} {median:7.1f} µs a call ({low:.1f} to {high:.1f}), {(median / base / 1e4 - 100):+.2f} %"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What traces cost the AI Proxy while they are off")
    parser.add_argument("--calls", type=int, default=800, help="in a round")
    parser.add_argument("--rounds", type=int, default=11)
    uvloop.run(main(parser.parse_args()))
