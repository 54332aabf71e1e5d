"""One span for each request and each WebSocket, with what its caller was answered; below it the calls of the bridge."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from qingyu_ai import tracing
from qingyu_ai.bus.errors import Overloaded
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.tracing import names
from qingyu_ai.tracing.recording import OtelRecorder
from tests.bridge.conftest import Bridge
from tests.bridge.halting import Halting
from tests.proxy.conftest import agent_worker
from tests.proxy.http.conftest import ME, Open, Site
from tests.proxy.http.test_json import ASKED
from tests.proxy.http.test_sse import all_of, failing, speak
from tests.proxy.http.test_websocket import dial, hear, say
from tests.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
CHAT = "qingyu.ai.agent.AIAgentService/Chat"
CHAT_STREAM = "qingyu.ai.agent.AIAgentService/ChatStream"


class Kept(SpanExporter):
    """Keeps spans."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._spans += spans
        return SpanExportResult.SUCCESS

    async def named(self, name: str, kind: SpanKind = SpanKind.SERVER) -> ReadableSpan:
        """The one span of a name and a kind."""

        def found() -> list[ReadableSpan]:
            with self._lock:
                return [span for span in self._spans if span.name == name and span.kind is kind]

        await eventually(lambda: bool(found()))
        [span] = found()
        return span

    @property
    def names(self) -> list[str]:
        with self._lock:
            return [span.name for span in self._spans]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """Before bridge and proxy start."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    kept = Kept()
    recorder = OtelRecorder("test", kept, CollectorRegistry())
    tracing.record_with(recorder)
    yield kept
    tracing.record_with(None)
    assert recorder.close(5)


def parent(span: ReadableSpan) -> tuple[str, str]:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}"


def own(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_request_and_call_are_spans_in_the_callers_trace(kept: Kept, bridge: Bridge, site: Site) -> None:
    await bridge.worker()
    assert (await site.post("/chat", ASKED, headers={"traceparent": GIVEN})).status_code == 200
    served = await kept.named("POST /api/v1/ai/chat")
    asked = await kept.named(CHAT, SpanKind.CLIENT)
    answered = await kept.named(CHAT, SpanKind.SERVER)
    assert parent(served) == (TRACE, GIVEN[36:52])
    assert (parent(asked), parent(answered)) == (own(served), own(asked))
    assert facts(served) == {names.HTTP_METHOD: "POST", names.HTTP_ROUTE: "/api/v1/ai/chat", names.HTTP_STATUS: 200}
    assert facts(asked) == {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: CHAT, names.RPC_STATUS: "OK"}
    assert {served.status.status_code, asked.status.status_code} == {StatusCode.UNSET}


@pytest.mark.parametrize(
    "given", ["", "00-x", GIVEN.upper(), f"00-{'0' * 32}-{'0' * 16}-01", f"ff{GIVEN[2:]}", f"{GIVEN}-x", "x" * 8000]
)
async def test_traceparent_that_does_not_hold_begins_a_trace_and_refuses_nothing(
    kept: Kept, bridge: Bridge, site: Site, given: str
) -> None:
    await bridge.worker()
    assert (await site.post("/chat", ASKED, headers={"traceparent": given})).status_code == 200
    served = await kept.named("POST /api/v1/ai/chat")
    assert served.parent is None
    assert parent(await kept.named(CHAT, SpanKind.CLIENT)) == own(served)


async def test_proxy_that_does_not_heed_its_callers_begins_a_trace(kept: Kept, bridge: Bridge, open_site: Open) -> None:
    await bridge.worker()
    site = await open_site(heed_traceparent=False)
    assert (await site.post("/chat", ASKED, headers={"traceparent": GIVEN})).status_code == 200
    assert (await kept.named("POST /api/v1/ai/chat")).parent is None


async def test_refusals_are_told_by_status_and_code_and_only_ours_are_errors(
    kept: Kept, bridge: Bridge, site: Site
) -> None:
    async def full(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        raise Overloaded("This worker is full", "服务繁忙", 1)

    await bridge.worker(chat=full)
    secret = {"messages": [{"role": "user", "content": "不能说的话"}], "不能说的字段": 1}
    assert (await site.post("/chat", secret)).status_code == 400
    served = await kept.named("POST /api/v1/ai/chat")
    assert facts(served)[names.ERROR_TYPE] == "VALIDATION"
    assert served.status.status_code is StatusCode.UNSET
    assert "不能说" not in served.to_json(indent=None).encode().decode("unicode_escape")
    assert (await site.get("/calls/nobody%2Fknows/stream")).status_code == 404
    followed = await kept.named("GET /api/v1/ai/calls/{requestId}/stream")
    assert (facts(followed)[names.HTTP_STATUS], facts(followed)[names.ERROR_TYPE]) == (404, "NOT_FOUND")
    assert "nobody" not in followed.to_json()


async def test_paths_and_methods_that_there_are_not_make_no_names(kept: Kept, site: Site) -> None:
    for method, path in (("GET", "/secret/1"), ("PROPFIND", "/secret/2"), ("PATCH", "/api/v1/ai/chat")):
        await site.client.request(method, path)
    assert facts(await kept.named("GET"))[names.HTTP_STATUS] == 404
    assert facts(await kept.named("HTTP"))[names.HTTP_METHOD] == "_OTHER"
    assert facts(await kept.named("PATCH /api/v1/ai/chat"))[names.HTTP_STATUS] == 405


async def test_who_watches_makes_no_spans(kept: Kept, bridge: Bridge, site: Site) -> None:
    await bridge.worker()
    await site.client.get("/health")
    await site.client.get("/metrics")
    await site.client.get("/docs")
    await kept.named("GET /docs")
    assert not {"GET /health", "GET /metrics"} & set(kept.names)


async def test_stream_that_breaks_is_an_error_although_it_began_well(kept: Kept, bridge: Bridge, site: Site) -> None:
    await agent_worker(bridge, failing)
    asked = {"task": "写", "agentType": "plot"}
    found = await all_of(site, "POST", "/agents/plot/stream", json=asked)
    assert found[-1]["event"] == "error"
    served = await kept.named("POST /api/v1/ai/agents/{type}/stream")
    code = json.loads(found[-1]["data"])["error"]["code"]
    assert (facts(served)[names.HTTP_STATUS], facts(served)[names.ERROR_TYPE]) == (200, code)
    assert served.status.status_code is StatusCode.ERROR
    asked_at = await kept.named("qingyu.ai.agent.AIAgentService/ExecuteAgentStream", SpanKind.CLIENT)
    for span in (served, asked_at):
        assert "broke off" not in str(span.status.description), "an answer may quote what a user wrote"


async def test_socket_is_one_span_from_its_opening_to_its_end(kept: Kept, bridge: Bridge, site: Site) -> None:
    await bridge.worker(stream=speak)
    async with dial(site, additional_headers=ME | {"traceparent": GIVEN}) as socket:
        await say(socket, type="chat", request=ASKED)
        await hear(socket)
    served = await kept.named("GET /api/v1/ai/ws")
    assert parent(served) == (TRACE, GIVEN[36:52])
    assert facts(served)[names.HTTP_STATUS] == 101
    assert parent(await kept.named(CHAT_STREAM, SpanKind.CLIENT)) == own(served)


async def test_client_that_leaves_its_stream_is_no_error(kept: Kept, bridge: Bridge, site: Site) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    async with site.client.stream("POST", "/api/v1/ai/chat/stream", json=ASKED, headers=ME) as response:
        await anext(response.aiter_lines())
    async with dial(site) as socket:
        await say(socket, type="chat", request=ASKED)
        await socket.recv()
    for name in ("POST /api/v1/ai/chat/stream", "GET /api/v1/ai/ws"):
        served = await kept.named(name)
        assert (facts(served)[names.ERROR_TYPE], served.status.status_code) == ("cancelled", StatusCode.UNSET)
    halting.release.set()


async def traces_of_chats(bridge: Bridge) -> list[str]:
    """A worker notes in it the traceparent of each chat."""
    seen: list[str] = []

    async def note(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        seen.append(call.traceparent)
        return ai.ChatResponse()

    await bridge.worker(chat=note)
    return seen


async def test_page_of_another_origin_may_send_its_trace_and_a_proxy_without_spans_passes_it_on(
    bridge: Bridge, open_site: Open
) -> None:
    seen = await traces_of_chats(bridge)
    site = await open_site(allowed_origins=("https://www.example.com",))
    origin = {"Origin": "https://www.example.com"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "traceparent,tracestate"}
    allowed = await site.client.options("/api/v1/ai/chat", headers=origin | asks)
    assert allowed.status_code == 200
    for headers in (origin | {"traceparent": GIVEN}, {}, {"traceparent": "00-x"}):
        assert (await site.post("/chat", ASKED, headers=headers)).status_code == 200
    assert seen == [GIVEN, "", ""]


async def test_request_that_comes_before_the_answer_to_another_is_not_in_its_trace(
    bridge: Bridge, open_site: Open
) -> None:
    seen = await traces_of_chats(bridge)
    site = await open_site()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    body = json.dumps(ASKED).encode()
    for own in ({"traceparent": GIVEN}, {"Connection": "close"}):
        lines = {"Host": "a", "Content-Type": "application/json", "Content-Length": str(len(body)), **ME, **own}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"POST /api/v1/ai/chat HTTP/1.1\r\n{head}\r\n".encode() + body)
    answers = await reader.read()
    assert answers.count(b"HTTP/1.1 200") == 2
    assert seen == [GIVEN, ""]
    writer.close()
