"""One call is one trace, over all processes that it went through, also when one of them is killed."""

from __future__ import annotations

import json
import re
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, rag_pb2_grpc
from qingyu_ai.settings import env_name
from qingyu_ai.tracing import names
from tests.agent.tool_process import FILE
from tests.collector import Collector, Seen, epochs, path
from tests.e2e.callers import FAST, new_id
from tests.ports import free_port
from tests.postgres import PostgresProcess
from tests.running import System, Worker
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, error, opening, tool_calls
from tests.upstream.script import Counts, Stall
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

CHAPTER = "闻渡在灯油铺以左耳听觉抵账，换了三两鲸脂。"
QUESTION = "闻渡拿什么换了鲸脂"
TASK = "接着往下写两句"
ANSWER = "他听不见雨声了。"
AGENT = "qingyu.ai.agent.AIAgentService/ExecuteAgentStream"
STREAM = "ai.job.agent.stream.creative"
PROCESS = f"process {STREAM}"
SAMPLED, NOT_SAMPLED = "01", "00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def settings(upstream: Upstream, endpoint: str, **more: str) -> dict[str, str]:
    model = {"novel": {"base_url": upstream.base_url, "model": "novel", "send_traceparent": True, "attempts": 1}}
    return {
        **FAST,
        "QINGYU_LLM__MODELS": json.dumps(model),
        "QINGYU_TRACE__ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        **more,
    }


def request(*tools: str) -> ai.AgentRequest:
    return ai.AgentRequest(
        agent_type="creative",
        task=TASK,
        tools=tools,
        metadata=common.Metadata(request_id=new_id(), user_id="u", project_id="p"),
    )


def traceparent(flags: str = SAMPLED) -> tuple[str, str, str]:
    """As a caller sends it; its trace; its span."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-{flags}", trace, span


def called(channel: grpc.Channel, asked: ai.AgentRequest, given: str, heard: list[str] | None = None) -> str:
    heard = [] if heard is None else heard
    stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
    chunks = stub.ExecuteAgentStream(asked, timeout=40, metadata=(("traceparent", given),) if given else ())
    for chunk in chunks:
        if chunk.chunk_type == "text":
            heard.append(chunk.delta)
    return "".join(heard)


def paths(spans: list[Seen]) -> list[list[tuple[str, str]]]:
    """All spans with the way to them, in the order in which they began."""
    return [path(spans, span) for span in sorted(spans, key=lambda span: (span.began_ns, -span.ended_ns))]


def test_call_is_one_trace_from_its_caller_to_tool_database_and_model(collector: Collector, upstream: Upstream) -> None:
    database = PostgresProcess()
    database.start()
    workers = ("services.agent", "services.chat", "services.tool", Worker("services.rag", "rag", database.settings))
    try:
        with (
            System(*workers, settings=settings(upstream, collector.endpoint)) as system,
            grpc.insecure_channel(system.target) as channel,
        ):
            chapter = rag.IndexRequest(document_id="5", content=CHAPTER, user_id="u", project_id="p")
            assert rag_pb2_grpc.RAGServiceStub(channel).IndexDocument(chapter, timeout=40).success
            upstream.script(
                "novel",
                [
                    tool_calls(("a", "search_knowledge", json.dumps({"query": QUESTION})), usage=Counts(20, 9)),
                    chat(ANSWER, usage=Counts(50, 12)),
                ],
            )
            given, trace, span = traceparent()
            assert called(channel, request("search_knowledge"), given) == ANSWER
            eventually_sync(lambda: len(collector.of(trace)) == 11, timeout=20)
            chat_answered(channel, upstream, collector)
    finally:
        database.close()
    spans = collector.of(trace)
    edge = ("bridge", AGENT)
    work = [edge, ("agent", PROCESS)]
    tool = [*work, ("agent", "execute_tool search_knowledge"), *both("agent", "tool", "tool.ToolService/CallTool")]
    search = [*tool, *both("tool", "rag", "rag.RAGService/Search")]
    asked = [*work, ("agent", "chat novel")]
    expected = [[edge], [edge, ("agent", f"wait {STREAM}")], work, asked]
    expected += [tool[:n] for n in (3, 4, 5)] + [search[:n] for n in (6, 7)]
    expected += [[*search, ("rag", "search rag.pieces")], asked]
    assert sorted(paths(spans)) == sorted(expected)
    [first] = [one for one in spans if one.name == AGENT]
    assert (first.parent, first.kind, first.facts[names.RPC_STATUS]) == (span, "SERVER", "OK")
    calls = [one.facts for one in collector.named("chat novel") if one.trace == trace]
    assert [(one[names.INPUT_TOKENS], one[names.OUTPUT_TOKENS], one[names.FINISH_REASONS]) for one in calls] == [
        (20, 9, ["tool_calls"]),
        (50, 12, ["stop"]),
    ]
    sent = [one.headers["traceparent"] for one in upstream.seen() if "traceparent" in one.headers]
    wanted = [f"00-{trace}-{one.id}-01" for one in collector.named("chat novel") if one.trace == trace]
    assert sent[: len(wanted)] == wanted
    assert all(one.error is None and one.began_ns <= one.ended_ns for one in spans)
    no_text_of_users(collector)


def both(asker: str, answerer: str, method: str) -> list[tuple[str, str]]:
    """The spans of an rpc at both ends."""
    return [(asker, f"qingyu.ai.{method}"), (answerer, f"qingyu.ai.{method}")]


def chat_answered(channel: grpc.Channel, upstream: Upstream, collector: Collector) -> None:
    """A caller without a traceparent begins a trace of its own."""
    upstream.script("novel", chat(ANSWER))
    asked = ai.ChatRequest(messages=[common.Message(role="user", content=QUESTION)])
    assert ai_agent_pb2_grpc.AIAgentServiceStub(channel).Chat(asked, timeout=40).message.content == ANSWER
    name = "process ai.job.chat.complete"
    eventually_sync(lambda: len(collector.named(name)) == 1, timeout=20)
    [worked] = collector.named(name)
    eventually_sync(lambda: len(collector.of(worked.trace)) == 4, timeout=20)
    edge = ("bridge", "qingyu.ai.agent.AIAgentService/Chat")
    assert path(collector.of(worked.trace), worked) == [edge, ("chat", name)]


def no_text_of_users(collector: Collector) -> None:
    for one in collector.spans:
        for text in (CHAPTER, QUESTION, TASK, ANSWER):
            assert text.encode() not in one.raw, one
            assert json.dumps(text).strip('"').encode() not in one.raw, one


def test_killed_worker_is_in_the_trace_with_all_that_it_did(
    collector: Collector, upstream: Upstream, tmp_path: Path
) -> None:
    """It cannot tell of its own span: whoever takes the call over does, under the same id, so that nothing hangs in the air."""
    tools = Worker("tests.agent.tool_process", "tool", {FILE: str(tmp_path / "made")})
    with (
        System("services.agent", tools, settings=settings(upstream, collector.endpoint)) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        upstream.script(
            "novel",
            [
                tool_calls(("a", "text_statistics", '{"text": "夜雨"}'), usage=Counts(20, 9)),
                opening(ANSWER, Stall()),
                chat("灯还亮着。"),
            ],
        )
        given, trace, _ = traceparent()
        heard: list[str] = []
        caller = threading.Thread(target=lambda: called(channel, request("text_statistics"), given, heard))
        caller.start()
        tool = "execute_tool text_statistics"
        eventually_sync(lambda: "".join(heard) == ANSWER and len(collector.named(tool)) == 1, timeout=20)
        system.workers[0].kill()
        system.workers[0].start()
        caller.join()
        assert "".join(heard) == ANSWER + "灯还亮着。"
        eventually_sync(lambda: len(collector.named(AGENT)) == 1 and len(collector.named(PROCESS)) == 2, timeout=20)
        system.wait_ready()
    spans = collector.of(trace)
    lost, last = collector.named(PROCESS)
    edge, work = ("bridge", AGENT), [("bridge", AGENT), ("agent", PROCESS)]
    assert sorted({*map(tuple, paths(spans))}) == sorted(
        [
            (edge,),
            (edge, ("agent", f"wait {STREAM}")),
            tuple(work),
            (*work, ("agent", "chat novel")),
            (*work, ("agent", tool)),
            (*work, ("agent", tool), ("agent", "qingyu.ai.tool.ToolService/CallTool")),
            (*work, ("agent", tool), *both("agent", "tool", "tool.ToolService/CallTool")),
        ]
    )
    assert epochs([lost, last]) == sorted(epochs([lost, last]))
    assert lost.facts[names.EPOCH] != last.facts[names.EPOCH]
    assert (lost.error, lost.facts[names.ERROR_TYPE]) == ("The worker was lost, and another one went on", "worker_lost")
    assert (last.error, last.facts[names.DELIVERY]) == (None, 2)
    assert [span.parent for span in collector.named(tool)] == [lost.id]
    # The model that was asked when the worker was killed is not in it: only its end would have been told.
    assert [span.parent for span in collector.named("chat novel")] == [lost.id, last.id]


def test_failure_is_told_as_its_caller_is_told(collector: Collector, upstream: Upstream) -> None:
    with (
        System("services.chat", settings=settings(upstream, collector.endpoint)) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        secret = "a story that only the server knows"
        upstream.script("novel", error(500, secret))
        given, trace, _ = traceparent()
        asked = ai.ChatRequest(messages=[common.Message(role="user", content=QUESTION)])
        stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Chat(asked, timeout=40, metadata=(("traceparent", given),))
        eventually_sync(lambda: len(collector.of(trace)) == 4, timeout=20)
    told = refused.value.details()
    spans = {one.name.split()[0]: one for one in collector.of(trace)}
    assert [spans[name].error for name in ("qingyu.ai.agent.AIAgentService/Chat", "process", "chat")] == [told] * 3
    assert spans["wait"].error is None
    assert not any(secret.encode() in one.raw for one in collector.spans)
    no_text_of_users(collector)


def test_caller_that_does_not_sample_is_heeded_by_every_process(collector: Collector, upstream: Upstream) -> None:
    with (
        System("services.agent", settings=settings(upstream, collector.endpoint)) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        upstream.script("novel", [chat(ANSWER), chat(ANSWER)])
        given, trace, _ = traceparent(NOT_SAMPLED)
        assert called(channel, request(), given) == ANSWER
        other, seen, _ = traceparent()
        assert called(channel, request(), other) == ANSWER
    assert {one.trace for one in collector.spans if one.name == PROCESS} == {seen}
    assert not collector.of(trace)
    [first, second] = [one.headers["traceparent"] for one in upstream.seen()]
    assert (first[:36], first[-2:]) == (f"00-{trace}-", NOT_SAMPLED)
    assert second.startswith(f"00-{seen}-")


def metrics(port: int) -> dict[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        text = page.read().decode()
    return {outcome: float(n) for outcome, n in re.findall(r'qingyu_trace_spans_total\{outcome="(\w+)"\} (\S+)', text)}


@pytest.mark.parametrize("how", ["dead", "silent"])
def test_calls_go_on_without_their_collector_and_what_is_dropped_is_counted(
    how: str, collector: Collector, upstream: Upstream
) -> None:
    """More spans than may wait. The processes also end in time: `System` complains about those that do not."""
    endpoint = collector.endpoint
    if how == "dead":
        endpoint = f"http://127.0.0.1:{free_port()}"
    else:
        collector.hang()
    few = {"OTEL_BSP_MAX_QUEUE_SIZE": "5", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    with (
        System("services.agent", settings=settings(upstream, endpoint, **few)) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        calls = 20
        upstream.script("novel", [chat(ANSWER)] * calls)
        for _ in range(calls):
            assert called(channel, request(), "") == ANSWER
        [bridge] = system.bridges
        eventually_sync(lambda: metrics(bridge.metrics_port)["dropped"] >= calls - 5, timeout=20)
        assert metrics(bridge.metrics_port)["exported"] == 0
        if how == "silent":
            assert collector.hung
    assert not any(process.crashed for process in (*system.bridges, *system.workers))


def test_process_that_ends_exports_what_it_still_has(collector: Collector, upstream: Upstream) -> None:
    late = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with (
        System("services.agent", settings=settings(upstream, collector.endpoint, **late)) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        upstream.script("novel", chat(ANSWER))
        given, trace, _ = traceparent()
        assert called(channel, request(), given) == ANSWER
        assert not collector.spans
    assert {one.name for one in collector.of(trace)} == {AGENT, f"wait {STREAM}", PROCESS, "chat novel"}


def test_standard_variable_alone_turns_traces_on(collector: Collector, upstream: Upstream) -> None:
    standard = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_SERVICE_NAME": "novels",
    }
    with (
        System("services.agent", settings=settings(upstream, "", **standard)) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        upstream.script("novel", chat(ANSWER))
        assert called(channel, request(), "") == ANSWER
        assert env_name(("trace", "endpoint")) == "QINGYU_TRACE__ENDPOINT"
    assert {one.service for one in collector.spans} == {"novels"}
    assert PROCESS in {one.name for one in collector.spans}
