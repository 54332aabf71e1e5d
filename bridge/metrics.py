"""What the edge counts. Children are looked up once for each row, because a lookup by label costs more than the count."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from qingyu_ai.bus import topology
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.errors import Code
from qingyu_ai.bus.gauge import Gauge as StreamGauge
from qingyu_ai.bus.transport import Usage
from qingyu_ai.process import CALL_BUCKETS
from qingyu_ai.routes import Route

STREAMS: tuple[tuple[str, str, Callable[[Usage], float]], ...] = (
    ("bytes", "Bytes in a stream of the broker", lambda usage: usage.bytes),
    ("max_bytes", "Bytes that it may have", lambda usage: usage.max_bytes),
    ("messages", "Messages in it; of a queue: jobs that wait or run", lambda usage: usage.messages),
    ("oldest_seconds", "Age of its oldest message", lambda usage: _age(usage.oldest_unix)),
)
"""What is shown of each stream, as of the last look."""


def _age(unix: float) -> float:
    return max(0.0, time.time() - unix) if unix else 0.0


@dataclass(slots=True)
class RouteMetrics:
    """The counters of one row."""

    open: list[int]
    """One number: calls open now."""
    seconds: Any
    first_chunk: Any
    chunks: Any
    deltas: Any
    codes: dict[Code, Any]


class Metrics:
    """All metrics of a bridge process."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._calls = Counter(
            "qingyu_bridge_calls", "Finished calls by method and status code", ["method", "code"], registry=registry
        )
        self._open = Gauge("qingyu_bridge_open_calls", "Calls open now", ["method"], registry=registry)
        self._open_now: dict[str, list[int]] = {}
        self._seconds = Histogram(
            "qingyu_bridge_call_seconds", "Duration of calls", ["method"], buckets=CALL_BUCKETS, registry=registry
        )
        self._first = Histogram(
            "qingyu_bridge_first_chunk_seconds",
            "Time to the first chunk of a stream",
            ["method"],
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._chunks = Counter("qingyu_bridge_chunks", "Stream messages sent to callers", ["method"], registry=registry)
        self._deltas = Counter(
            "qingyu_bridge_deltas",
            "Deltas in them; deltas / chunks is the coalescing ratio",
            ["method"],
            registry=registry,
        )
        self.workers = Gauge(
            "qingyu_bridge_workers", "Workers seen within the last second", ["kind"], registry=registry
        )
        self.connected = Gauge(
            "qingyu_bridge_bus_connected", "1 while there is a connection to NATS", registry=registry
        )
        self._registry = registry
        self.refused = Counter("qingyu_bridge_refused", "Calls refused because the process is full", registry=registry)

    def watch(self, caller: Caller) -> None:
        """Show what this process holds for its calls, and how full the streams are."""
        readers = caller.readers
        for name, what, value in (
            ("readers", "Job calls that are read now", lambda: len(readers)),
            ("joined_readers", "Of these: by a consumer of their own", lambda: readers.apart),
            ("held_bytes", "Bytes that wait for slow callers", lambda: readers.held_bytes),
            ("lingering", "Calls that wait for their caller to come back", lambda: readers.withdrawals.lingering),
            ("tasks", "Tasks beside the calls", lambda: readers.tasks),
            ("bus_requests", "Requests to NATS without a reply yet", lambda: caller.bus.waiting),
        ):
            Gauge(f"qingyu_bridge_{name}", what, registry=self._registry).set_function(value)
        for name, what, of in STREAMS:
            gauge = Gauge(f"qingyu_stream_{name}", what, ["stream"], registry=self._registry)
            for stream in topology.WATCHED:
                gauge.labels(stream).set_function(functools.partial(_of_stream, readers.gauge, stream, of))
        waiting = Gauge("qingyu_queue_waiting", "Jobs that no worker has yet", ["queue"], registry=self._registry)
        claimed = Gauge("qingyu_queue_claimed", "Jobs that a worker has", ["queue"], registry=self._registry)
        for kind in topology.QUEUES:
            waiting.labels(kind).set_function(functools.partial(_waiting, readers.gauge, kind))
            claimed.labels(kind).set_function(functools.partial(_claimed, readers.gauge, kind))

    def of(self, route: Route[Any, Any]) -> RouteMetrics:
        """The counters of a row."""
        method = route.method
        # Read when somebody asks: a gauge that is moved twice a call costs more than the rest of the counting.
        open_now = self._open_now.setdefault(method, [0])
        self._open.labels(method).set_function(lambda: open_now[0])
        return RouteMetrics(
            open=open_now,
            seconds=self._seconds.labels(method),
            first_chunk=self._first.labels(method),
            chunks=self._chunks.labels(method),
            deltas=self._deltas.labels(method),
            codes={code: self._calls.labels(method, code.name) for code in Code},
        )


def _of_stream(gauge: StreamGauge, stream: str, of: Callable[[Usage], float]) -> float:
    usage = gauge.usage.get(stream)
    return of(usage) if usage else 0


def _waiting(gauge: StreamGauge, kind: str) -> float:
    backlog = gauge.backlog(kind)
    return backlog.waiting if backlog else math.nan


def _claimed(gauge: StreamGauge, kind: str) -> float:
    backlog = gauge.backlog(kind)
    return backlog.claimed if backlog else math.nan
