"""Keeps spans with OpenTelemetry's SDK, and exports them over OTLP. Imported only where traces are turned on.

The standard's own variables decide what they are about: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER,
OTEL_BSP_*, OTEL_SPAN_* and OTEL_EXPORTER_OTLP_*. Nothing here waits for the collector but one thread of its own.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
from collections.abc import Sequence

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from prometheus_client import REGISTRY, CollectorRegistry, Counter

from qingyu_ai import __version__
from qingyu_ai.settings import SettingsError

from . import Attributes, Kind, Value
from .context import parent_of

log = structlog.get_logger(__name__)

QUEUE_SPANS = 2048
"""Spans that wait for the collector, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise; more are dropped, and counted."""

DELAY_MS = 1000
"""Until a span is on its way, unless OTEL_BSP_SCHEDULE_DELAY says otherwise. The standard's five seconds are lost with a worker
that is killed."""

KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
    Kind.PRODUCER: SpanKind.PRODUCER,
    Kind.CONSUMER: SpanKind.CONSUMER,
}


def counter(registry: CollectorRegistry) -> Counter:
    """The metric of this module."""
    return Counter(
        "qingyu_trace_spans",
        "Spans by what became of them: exported, failed (the collector did not take them), dropped (too many waited)",
        ["outcome"],
        registry=registry,
    )


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose id was chosen."""

    chosen = 0

    def generate_span_id(self) -> int:
        chosen, self.chosen = self.chosen, 0
        return chosen or random.getrandbits(64) or 1


class _Counting(SpanExporter):
    """Counts what an exporter did, and says once that the collector does not take spans, and once that it does again."""

    def __init__(self, exporter: SpanExporter, registry: CollectorRegistry) -> None:
        self._exporter = exporter
        self._fails = False
        spans = counter(registry)
        self.exported, self.failed, self.dropped = (spans.labels(o) for o in ("exported", "failed", "dropped"))
        self.done = 0
        """Spans that are waited for no more. Only the exporting thread changes it."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.done += len(spans)
            failed = result is not SpanExportResult.SUCCESS
            (self.failed if failed else self.exported).inc(len(spans))
            if failed != self._fails:
                self._fails = failed
                if failed:
                    log.warning("traces_not_exported", spans=len(spans))
                else:
                    log.info("traces_exported_again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Bounded(SpanProcessor):
    """Passes spans on to be exported, unless too many wait already."""

    def __init__(self, counting: _Counting, most: int, batch: BatchSpanProcessor) -> None:
        self._counting = counting
        self._most = most
        self._batch = batch
        self._passed = 0
        """Changed by the thread of the event loop only."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._passed - self._counting.done >= self._most:
            self._counting.dropped.inc()
            return
        self._passed += 1
        self._batch.on_end(span)

    def shutdown(self) -> None:
        self._batch.shutdown()  # type: ignore[no-untyped-call]


class OtelRecord:
    """See `tracing.Record`."""

    __slots__ = ("_span", "_traceparent")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        context = span.get_span_context()
        flags = TraceFlags.SAMPLED if context.trace_flags.sampled else TraceFlags.DEFAULT
        self._traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    @property
    def traceparent(self) -> str:
        return self._traceparent

    @property
    def ids(self) -> tuple[str, str]:
        return self._traceparent[3:35], self._traceparent[36:52]

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def fail(self, message: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, message))

    def end(self) -> None:
        self._span.end()


class OtelRecorder:
    """See `tracing.Recorder`.

    Args:
        process: which process of the system this is.
        exporter: takes the spans.
        registry: of metrics.
    """

    def __init__(self, process: str, exporter: SpanExporter, registry: CollectorRegistry = REGISTRY) -> None:
        self._ids = _Ids()
        most = _number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS)
        counting = _Counting(exporter, registry)
        # Half a queue at a time, or a short queue would be refused.
        batch = min(_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), most)
        delay = _number("OTEL_BSP_SCHEDULE_DELAY", DELAY_MS)
        processor = BatchSpanProcessor(
            counting, max_queue_size=most, schedule_delay_millis=delay, max_export_batch_size=batch
        )
        self._provider = TracerProvider(resource=_resource(process), shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(_Bounded(counting, most, processor))
        self._tracer = self._provider.get_tracer("qingyu_ai", __version__)

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, parent: str, began_ns: int | None, span_id: int
    ) -> OtelRecord:
        """See `tracing.Recorder.begin`."""
        self._ids.chosen = span_id
        return OtelRecord(self._tracer.start_span(name, _within(parent), KINDS[kind], attributes, start_time=began_ns))

    def close(self, seconds: float) -> bool:
        """Export what is left.

        Returns:
            Whether that was done in time. What was not is lost.
        """
        thread = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        thread.start()
        thread.join(seconds)
        return not thread.is_alive()


def _within(parent: str) -> Context:
    """A context in which a span of another process, or of this one, is the parent."""
    named = parent_of(parent)
    if not named:
        return Context()
    trace, span, flags = (int(part, 16) for part in named.split("-")[1:])
    return set_span_in_context(
        NonRecordingSpan(SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags))), Context()
    )


def _resource(process: str) -> Resource:
    own = {
        "service.name": f"qingyu-{process}",
        "service.version": __version__,
        "service.instance.id": secrets.token_hex(8),
    }
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = {pair.partition("=")[0].strip() for pair in given.split(",")}
    if os.environ.get("OTEL_SERVICE_NAME"):
        named.add("service.name")
    return Resource.create({name: value for name, value in own.items() if name not in named})


def _number(variable: str, otherwise: int) -> int:
    given = os.environ.get(variable, "").strip()
    if not given:
        return otherwise
    if not (given.isdecimal() and given.isascii() and int(given) > 0):
        raise SettingsError(f"{variable} must be a whole number above 0, and is {given!r}")
    return int(given)


def open_recorder(process: str, endpoint: str) -> OtelRecorder:
    """Record, and export to a collector, whether it is there or not.

    Args:
        endpoint: the collector; empty: as the standard's variables say.

    Raises:
        SettingsError: one of these does not hold.
    """
    for loud in ("opentelemetry.exporter", "opentelemetry.sdk"):
        logging.getLogger(loud).setLevel(logging.CRITICAL)  # one line a try; `_Counting` tells it once
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol != "grpc":
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL: this release exports by grpc only, and {protocol!r} is set")
    try:
        exporter = OTLPSpanExporter(endpoint=endpoint or None)
    except Exception as e:  # of many kinds, and each of them a variable that does not hold
        raise SettingsError(f"OTEL_EXPORTER_OTLP_*: {e}") from None
    return OtelRecorder(process, exporter)
