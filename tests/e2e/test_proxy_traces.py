"""One call is one trace from whoever calls the AI Proxy, also when its stream goes on at another bridge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider

from qingyu_ai.settings import AiProxy
from qingyu_ai.tracing import names
from services.proxy.models import ChatRequest, Message
from services.proxy.service import AIProxyService
from services.proxy.who import Who
from tests.agent.tool_process import FILE
from tests.collector import Collector, Seen, path
from tests.e2e.callers import COUNTING, FAST
from tests.e2e.counting_worker import spoken
from tests.e2e.proxies import RunningProxy
from tests.e2e.test_traces import AGENT, ANSWER, PROCESS, STREAM, TASK, both, no_text_of_users, settings, traceparent
from tests.running import System, Worker
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, tool_calls
from tests.upstream.script import Counts
from tests.waiting import eventually

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("bridge faults")]

ME = {"X-User-Id": "e2e", "X-Project-Id": "p"}
CHAT_STREAM = "qingyu.ai.agent.AIAgentService/ChatStream"
COUNTED = "process ai.job.chat.stream"
ROUTE = "POST /api/v1/ai/chat/stream"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def traced(collector: Collector) -> dict[str, str]:
    return {**FAST, "QINGYU_TRACE__ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}


async def test_call_over_http_is_one_trace_from_its_caller_to_tool_and_model(
    collector: Collector, tmp_path: Path
) -> None:
    tools = Worker("tests.agent.tool_process", "tool", {FILE: str(tmp_path / "made")})
    with (
        Upstream() as upstream,
        System("services.agent", tools, settings=settings(upstream, collector.endpoint)) as system,
    ):
        proxy = RunningProxy(system, tmp_path)
        proxy.start()
        await proxy.ready()
        upstream.script(
            "novel",
            [tool_calls(("a", "text_statistics", '{"text": "夜雨"}'), usage=Counts(20, 9)), chat(ANSWER)],
        )
        given, trace, span = traceparent()
        body = {"task": TASK, "tools": ["text_statistics"]}
        headers = ME | {"traceparent": given, "tracestate": "vendor=1"}
        async with httpx2.AsyncClient(base_url=proxy.origin, trust_env=False, timeout=30, headers=headers) as client:
            answer = await client.post("/api/v1/ai/agents/creative/stream", json=body)
        assert "event: done" in answer.text
        await eventually(lambda: len(collector.of(trace)) == 10, timeout=20)
        proxy.stop()
    spans = collector.of(trace)
    http = ("proxy", "POST /api/v1/ai/agents/{type}/stream")
    edge = [http, ("proxy", AGENT), ("bridge", AGENT)]
    work = [*edge, ("agent", PROCESS)]
    asked = [*work, ("agent", "chat novel")]
    tool = [*work, ("agent", "execute_tool text_statistics"), *both("agent", "tool", "tool.ToolService/CallTool")]
    expected = [edge[:n] for n in (1, 2, 3)] + [[*edge, ("agent", f"wait {STREAM}")], work, asked, asked]
    expected += [tool[:n] for n in (5, 6, 7)]
    assert sorted(path(spans, one) for one in spans) == sorted(expected)
    [served] = [one for one in spans if (one.service, one.kind) == ("qingyu-proxy", "SERVER")]
    assert (served.parent, served.facts[names.HTTP_STATUS], served.error) == (span, 200, None)
    no_text_of_users(collector)


async def counted(proxy: RunningProxy, given: str, halfway: asyncio.Event) -> str:
    """Read a stream of 150 deltas over HTTP."""
    body = {
        "messages": [{"role": "user", "content": "数数"}],
        "context": {"deltas": "150", "per_second": "30", "padding": "0"},
    }
    text, headers = "", ME | {"traceparent": given}
    async with (
        httpx2.AsyncClient(base_url=proxy.origin, trust_env=False, timeout=30, headers=headers) as client,
        client.stream("POST", "/api/v1/ai/chat/stream", json=body) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: ") and "delta" in line:
                text += json.loads(line[6:])["delta"]
            if text.count(" ") >= 10:
                halfway.set()
    return text


def one(spans: list[Seen], name: str) -> Seen:
    [found] = [span for span in spans if span.name == name]
    return found


@pytest.mark.parametrize("end", ["drains", "dies"])
async def test_stream_that_goes_on_at_another_bridge_is_in_the_same_trace(
    end: str, collector: Collector, tmp_path: Path
) -> None:
    with System(COUNTING, bridges=2, settings=traced(collector)) as system:
        proxy = RunningProxy(system, tmp_path)
        proxy.start()
        await proxy.ready()
        given, trace, span = traceparent()
        halfway = asyncio.Event()
        reading = asyncio.create_task(counted(proxy, given, halfway))
        await halfway.wait()
        # The others are let in by turns, so it is not known which one it is.
        busy = next(bridge for bridge in system.bridges if open_calls(bridge.metrics_port))
        if end == "drains":
            busy.terminate()
        else:
            busy.kill()
        assert await reading == spoken(system.workers[0].pid, 150)
        bridges = 2 if end == "drains" else 1
        await eventually(lambda: len(collector.of(trace)) == 5 + bridges, timeout=20)
        proxy.stop()
    spans = collector.of(trace)
    served = one(spans, ROUTE)
    assert (served.parent, served.error) == (span, None)
    first, second = sorted((s for s in spans if s.kind == "CLIENT"), key=lambda span: span.began_ns)
    assert {first.parent, second.parent} == {served.id}
    assert (first.facts[names.RPC_STATUS], second.facts[names.RPC_STATUS]) == ("UNAVAILABLE", "OK")
    assert (first.error is not None, second.error) == (True, None)
    edges = {s.parent: s for s in spans if (s.service, s.kind) == ("qingyu-bridge", "SERVER")}
    assert edges[second.id].facts[names.RPC_STATUS] == "OK"
    work = one(spans, COUNTED)
    if end == "drains":
        whole = [("proxy", ROUTE), ("proxy", CHAT_STREAM), ("bridge", CHAT_STREAM), ("chat", COUNTED)]
        assert path(spans, work) == whole
        assert work.parent == edges[first.id].id
    else:
        # What the killed bridge had told nobody is missing, and the worker's span is below it.
        assert list(edges) == [second.id]
        assert work.parent not in {s.id for s in spans}


def open_calls(port: int) -> float:
    with httpx2.Client(trust_env=False) as client:
        lines = client.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("qingyu_bridge_open"))


async def test_backend_that_imports_the_class_has_its_own_span_above_it_all(collector: Collector) -> None:
    tracer = TracerProvider().get_tracer("backend")
    with System(COUNTING, settings=traced(collector)) as system:
        service = await AIProxyService.start(AiProxy(python_addr=system.target))
        request = ChatRequest(messages=[Message(role="user", content="数数")], context={"deltas": "3"})
        with tracer.start_as_current_span("chapter") as chapter:
            async with aclosing(service.chat_stream(request, Who("e2e"))) as chunks:
                text = "".join([chunk.delta async for chunk in chunks])
        assert text == spoken(system.workers[0].pid, 3)
        await service.close()
        context = chapter.get_span_context()
        trace = f"{context.trace_id:032x}"
        await eventually(lambda: len(collector.of(trace)) == 3, timeout=20)
    spans = collector.of(trace)
    assert one(spans, CHAT_STREAM).parent == f"{context.span_id:016x}"
    assert path(spans, one(spans, COUNTED)) == [("bridge", CHAT_STREAM), ("chat", COUNTED)]
