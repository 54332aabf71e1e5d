"""A collector of traces that a test may look into: a real gRPC server of OTLP, read with the official messages.

with Collector() as collector:
    ...  # a process with QINGYU_TRACE__ENDPOINT=collector.endpoint
    collector.named("chat novel")
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from qingyu_ai.tracing import names


@dataclass(frozen=True)
class Seen:
    """A span that was exported."""

    name: str
    service: str
    kind: str
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    facts: dict[str, Any]
    error: str | None
    """What its status says; None: it has not failed."""
    raw: bytes


class Collector:
    """See the module."""

    def __init__(self) -> None:
        self._spans: list[Seen] = []
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._server = grpc.server(ThreadPoolExecutor(8))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            _Service(self), self._server
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.hung = 0
        """Requests that came while it hung."""

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def hang(self) -> None:
        """Answer nothing any more, until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        """Answer again."""
        self._open.set()

    @property
    def spans(self) -> list[Seen]:
        """All that was exported."""
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Seen]:
        """The spans of a name, by their beginning."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began_ns)

    def of(self, trace: str) -> list[Seen]:
        """The spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    def take(self, request: otlp.ExportTraceServiceRequest) -> None:
        """Keep what was exported."""
        if not self._open.is_set():
            self.hung += 1
            self._open.wait()
        with self._lock:
            for group in request.resource_spans:
                service = _facts(group.resource.attributes)["service.name"]
                for scope in group.scope_spans:
                    self._spans += [_seen(span, service) for span in scope.spans]

    def __enter__(self) -> Collector:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.set()
        self._server.stop(1).wait()


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: otlp.ExportTraceServiceRequest, context: Any) -> otlp.ExportTraceServiceResponse:
        self._collector.take(request)
        return otlp.ExportTraceServiceResponse()


def _seen(span: trace_pb2.Span, service: str) -> Seen:
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return Seen(
        span.name,
        service,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _facts(span.attributes),
        span.status.message if failed else None,
        span.SerializeToString(),
    )


def _facts(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind or "")


def path(spans: Sequence[Seen], leaf: Seen) -> list[tuple[str, str]]:
    """(service, name) from the first span down to this one."""
    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans), "two spans have one id"
    found = []
    at: Seen | None = leaf
    while at is not None:
        found.append((at.service.removeprefix("qingyu-"), at.name))
        at = by_id.get(at.parent)
    return found[::-1]


def epochs(spans: Sequence[Seen]) -> list[int]:
    """Of the claims that workers' spans are of."""
    return [span.facts[names.EPOCH] for span in spans]
