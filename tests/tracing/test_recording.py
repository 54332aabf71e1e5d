"""Spans as the SDK keeps them: who is whose parent, what is told of an error, and what happens when nobody takes them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from io import StringIO

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from qingyu_ai import tracing
from qingyu_ai.bus.errors import Cancelled, Invalid, Overloaded
from qingyu_ai.settings import Log, SettingsError, Trace
from qingyu_ai.telemetry import configure_logging
from qingyu_ai.tracing import Kind, names
from qingyu_ai.tracing.recording import OtelRecorder, open_recorder
from qingyu_ai.tracing.starting import traced, wanted
from tests.running import ROOT
from tests.waiting import eventually_sync

GIVEN = f"00-{'1' * 32}-{'2' * 16}-01"
TIMES = "OTEL_BSP_SCHEDULE_DELAY"


class Kept(SpanExporter):
    """Keeps spans, or takes none while it is closed."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Event()
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.opened.wait()
        self.spans += spans
        return self.result

    def named(self, name: str) -> ReadableSpan:
        eventually_sync(lambda: any(span.name == name for span in self.spans))
        [found] = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def recorder(kept: Kept, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtelRecorder]:
    monkeypatch.setenv(TIMES, "10")
    made = OtelRecorder("test", kept, registry)
    tracing.record_with(made)
    yield made
    tracing.record_with(None)
    kept.opened.set()
    assert made.close(5)


def counted(registry: CollectorRegistry, outcome: str) -> float:
    return registry.get_sample_value("qingyu_trace_spans_total", {"outcome": outcome}) or 0.0


def parent_of(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


async def test_span_is_child_of_the_current_one_also_in_other_tasks(recorder: OtelRecorder, kept: Kept) -> None:
    async def inner() -> None:
        with tracing.span("inner"):
            pass

    with tracing.span("outer", Kind.SERVER, parent=GIVEN) as outer:
        assert outer.traceparent[:36] == GIVEN[:36]
        await asyncio.gather(inner(), return_exceptions=False)
        assert tracing.onward("other") == outer.traceparent
    assert tracing.onward("other") == "other"
    assert not tracing.current()
    with tracing.span("alone"):
        pass
    assert parent_of(kept.named("outer")) == "2" * 16
    assert parent_of(kept.named("inner")) == outer.traceparent[36:52]
    assert kept.named("alone").parent is None


@pytest.mark.parametrize("given", ["", "00-x", f"00-{'0' * 32}-{'0' * 16}-01", f"{GIVEN}\n"])
async def test_parent_that_is_none_begins_a_trace(recorder: OtelRecorder, kept: Kept, given: str) -> None:
    with tracing.span("begun", parent=given) as span:
        assert span.traceparent[3:35] not in ("0" * 32, "1" * 32)
    assert kept.named("begun").parent is None


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (Overloaded("Full", "满", 3), "OVERLOADED", "Full"),
        (Invalid(("text", "is 夜雨落在瓦上")), "INVALID_REQUEST", ""),
        (ValueError("夜雨"), "internal", ""),
    ],
    ids=["fault", "what the caller wrote", "defect"],
)
async def test_error_is_told_as_a_caller_may_hear_it(
    recorder: OtelRecorder, kept: Kept, error: Exception, kind: str, said: str
) -> None:
    with pytest.raises(type(error)), tracing.span("broken"):
        raise error
    span = kept.named("broken")
    assert span.attributes is not None
    assert span.attributes[names.ERROR_TYPE] == kind
    assert not span.status.is_ok
    assert (span.status.description or "").startswith(said)
    assert "夜雨" not in span.to_json(indent=None)
    assert not span.events  # the SDK would record the exception's text


@pytest.mark.parametrize("error", [Cancelled(), asyncio.CancelledError()], ids=["told", "stopped"])
async def test_who_was_cancelled_has_not_failed(recorder: OtelRecorder, kept: Kept, error: BaseException) -> None:
    with pytest.raises(type(error)), tracing.span("left"):
        raise error
    span = kept.named("left")
    assert span.attributes is not None
    assert (span.status.is_ok, span.attributes[names.ERROR_TYPE]) == (True, "cancelled")


def test_spans_beyond_the_queue_are_dropped_and_counted(
    kept: Kept, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv(TIMES, "10")
    made = OtelRecorder("test", kept, registry)
    tracing.record_with(made)
    kept.opened.clear()
    try:
        for number in range(25):
            with tracing.span(f"n{number}"):
                pass
            if not number:
                assert kept.entered.wait(10)
        assert (counted(registry, "dropped"), counted(registry, "exported")) == (15, 0)
        kept.opened.set()
        eventually_sync(lambda: counted(registry, "exported") == 10)
        with tracing.span("after"):
            pass
        eventually_sync(lambda: counted(registry, "exported") == 11)
    finally:
        tracing.record_with(None)
        kept.opened.set()
        assert made.close(5)
    assert [span.name for span in kept.spans] == [*(f"n{number}" for number in range(10)), "after"]


def test_process_does_not_wait_for_a_collector_that_hangs(
    kept: Kept, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMES, "10")
    made = OtelRecorder("test", kept, registry)
    tracing.record_with(made)
    kept.opened.clear()
    with tracing.span("last"):
        pass
    tracing.record_with(None)
    assert kept.entered.wait(10)
    began = time.monotonic()
    assert not made.close(0.2)
    assert time.monotonic() - began < 5
    kept.opened.set()


def test_collector_that_refuses_is_logged_once_and_once_when_it_is_back(
    kept: Kept, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMES, "10")
    said = StringIO()
    configure_logging(Log(), "test", said)
    made = OtelRecorder("test", kept, registry)
    tracing.record_with(made)
    for result, exported in ((SpanExportResult.FAILURE, 3), (SpanExportResult.SUCCESS, 6)):
        kept.result = result
        for number in range(3):
            with tracing.span("one"):
                pass
            before = exported - 3 + number + 1
            eventually_sync(lambda at=before: len(kept.spans) == at)  # type: ignore[misc]
    tracing.record_with(None)
    assert made.close(5)
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    assert [said.getvalue().count(event) for event in ("traces_not_exported", "traces_exported_again")] == [1, 1]
    assert (counted(registry, "failed"), counted(registry, "exported")) == (3, 3)


def test_log_line_names_the_span_that_it_is_of(recorder: OtelRecorder) -> None:
    said = StringIO()
    configure_logging(Log(), "test", said)
    with tracing.span("one", parent=GIVEN) as span:
        structlog.get_logger().info("within")
    structlog.get_logger().info("without")
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    within, without = said.getvalue().splitlines()
    assert f'"trace_id": "{"1" * 32}", "span_id": "{span.traceparent[36:52]}"' in within
    assert "trace_id" not in without


@pytest.mark.parametrize(
    ("variables", "endpoint", "on"),
    [
        ({}, "", False),
        ({}, "http://127.0.0.1:4317", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, "", True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}, "", True),
        ({"OTEL_SDK_DISABLED": "true"}, "http://127.0.0.1:4317", False),
        ({"OTEL_TRACES_EXPORTER": "none"}, "http://127.0.0.1:4317", False),
    ],
)
def test_traces_are_on_where_a_collector_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoint: str, on: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted(Trace(endpoint=endpoint)) is on


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
def test_variable_that_does_not_hold_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name[:18]):
        open_recorder("test", "http://127.0.0.1:4317")


def test_nothing_of_opentelemetry_is_imported_where_traces_are_off() -> None:
    modules = "bridge.__main__, services.agent.__main__, services.chat.__main__, services.rag.__main__, services.tool.__main__"
    told = f"import sys, {modules}; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    ended = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_span_that_nobody_records_is_one_and_the_same() -> None:
    with traced(Trace(), "test"), tracing.span("off", Kind.CLIENT, {"a": 1}) as span:
        span.set("a", 2)
        assert span is tracing.OFF
        assert tracing.onward(GIVEN) == GIVEN
