"""In whose trace the class calls: in that which is current where it is called, at each attempt, and in no other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.proxy.errors import AIProxyError
from services.proxy.models import ChatRequest, Message
from tests.proxy.conftest import ME, Peer, Start
from tests.running import ROOT
from tests.waiting import eventually

ASKED = ChatRequest(messages=[Message(role="user", content="夜雨")])
TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
TRACER = TracerProvider().get_tracer("backend")


async def chat(body: bytes, context: Any) -> ai.ChatResponse:
    return ai.ChatResponse()


async def healthy(body: bytes, context: Any) -> ai.HealthResponse:
    return ai.HealthResponse(status="healthy")


@pytest.fixture
def answering(peer: Peer) -> Peer:
    peer.on(routes.CHAT, chat)
    peer.on(routes.HEALTH_CHECK, healthy)
    return peer


def told(peer: Peer, route: Any = routes.CHAT) -> list[tuple[str, str]]:
    """What the other side is told of traces, at each attempt."""
    return [(m.get("traceparent", ""), m.get("tracestate", "")) for path, m, _ in peer.calls if path == route.path]


def of(span: trace.Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


async def test_current_span_of_the_backend_is_the_parent(answering: Peer, start: Start) -> None:
    service = await start(answering.port)
    with TRACER.start_as_current_span("chapter") as chapter:
        await service.chat(ASKED, ME)
        with TRACER.start_as_current_span("again") as again:
            await service.chat(ASKED, ME)
    await service.chat(ASKED, ME)
    assert told(answering) == [(of(chapter), ""), (of(again), ""), ("", "")]


async def test_what_others_keep_with_the_trace_goes_along_and_so_does_that_it_is_not_sampled(
    answering: Peer, start: Start
) -> None:
    service = await start(answering.port)
    given = SpanContext(TRACE, SPAN, True, TraceFlags(0), TraceState([("vendor", "x:1"), ("b", "2")]))
    with trace.use_span(NonRecordingSpan(given)):
        await service.chat(ASKED, ME)
    dark = TracerProvider(sampler=ALWAYS_OFF).get_tracer("backend")
    with dark.start_as_current_span("unseen") as unseen:
        await service.chat(ASKED, ME)
    assert told(answering) == [(f"00-{TRACE:032x}-{SPAN:016x}-00", "vendor=x:1,b=2"), (of(unseen), "")]
    assert not unseen.get_span_context().trace_flags.sampled


async def test_tasks_at_once_are_in_their_own_traces(answering: Peer, start: Start) -> None:
    service = await start(answering.port)

    async def one() -> str:
        with TRACER.start_as_current_span("one") as span:
            await service.chat(ASKED, ME)
            return of(span)

    spans = await asyncio.gather(*(one() for _ in range(20)))
    assert sorted(told(answering)) == sorted((span, "") for span in spans)
    assert len(set(spans)) == 20


async def test_every_attempt_of_a_stream_is_in_the_trace_in_which_it_was_begun(answering: Peer, start: Start) -> None:
    """Whoever reads it may be in other spans by then, and the generator must not change them."""
    attempts = 0

    async def stream(body: bytes, context: Any) -> AsyncIterator[ai.ChatStreamChunk]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            yield ai.ChatStreamChunk(delta="夜")
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        yield ai.ChatStreamChunk(delta="雨")
        yield ai.ChatStreamChunk(is_final=True)

    answering.on(routes.CHAT_STREAM, stream)
    service = await start(answering.port)
    text = []
    with TRACER.start_as_current_span("begun") as begun:
        chunks = service.chat_stream(ASKED, ME)
        text.append((await anext(chunks)).delta)
        assert trace.get_current_span() is begun
    with TRACER.start_as_current_span("later") as later:
        async with aclosing(chunks):
            text += [chunk.delta async for chunk in chunks]
            assert trace.get_current_span() is later
    assert "".join(text) == "夜雨"
    assert told(answering, routes.CHAT_STREAM) == [(of(begun), ""), (of(begun), "")]


async def test_cancel_in_words_is_in_the_trace_of_its_call(answering: Peer, start: Start) -> None:
    async def stream(body: bytes, context: Any) -> AsyncIterator[ai.ChatStreamChunk]:
        yield ai.ChatStreamChunk(delta="夜")
        await asyncio.Event().wait()

    async def cancel(body: bytes, context: Any) -> Any:
        return routes.CANCEL.reply()

    answering.on(routes.CHAT_STREAM, stream)
    answering.on(routes.CANCEL, cancel)
    service = await start(answering.port)
    with TRACER.start_as_current_span("left") as left:
        async with aclosing(service.chat_stream(ASKED, ME)) as chunks:
            await anext(chunks)
    await eventually(lambda: bool(told(answering, routes.CANCEL)))
    assert told(answering, routes.CANCEL) == [(of(left), "")]


async def test_what_the_class_asks_by_itself_is_in_nobodys_trace(
    answering: Peer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may well start it within a span, which would have all health checks of the process."""
    monkeypatch.setattr("services.proxy.service.HEALTH_EVERY_SECONDS", 0.01)
    with TRACER.start_as_current_span("start"):
        service = await start(answering.port)
        await eventually(lambda: answering.count(routes.HEALTH_CHECK) > 2)
        await service.health()
    assert set(told(answering, routes.HEALTH_CHECK)) == {("", "")}


async def test_failed_attempts_tell_the_same_trace(answering: Peer, start: Start) -> None:
    async def away(body: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    answering.on(routes.CHAT, away)
    service = await start(answering.port, max_retries=2)
    with TRACER.start_as_current_span("asked") as asked, pytest.raises(AIProxyError):
        await service.chat(ASKED, ME)
    assert told(answering) == [(of(asked), "")] * 2


PROGRAM = """
import sys, services.proxy.service, services.proxy.http.app
from services.proxy.spans import caller
assert caller() == ("", "")
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


def test_opentelemetry_is_not_imported_by_who_does_not_use_it() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, check=True, timeout=50)
