"""Agents from end to end: gRPC, bridge, a real nats-server, the worker's service, tools of a tool worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker, Sign
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.errors import Fault, Overloaded
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.observing import NOBODY, Observer
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events import BEGINNING, Data, subscribe
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bridge as BridgeSettings
from services.agent.service import AgentService
from services.agent.toolbox import BusToolbox
from services.llm.model import Delta, Model, Prompt
from services.llm.offer import Offer
from services.llm.offline.model import OfflineModel
from services.tool.announcing import Announcer
from services.tool.registry import Listing, Registry
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixture
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.bridge.conftest import bus_settings as bus_settings
from tests.waiting import eventually

from .scripted import LIBRARY, Answer, ScriptedModel, calls, kinds, listing, request, says, text_of

Handler = Callable[[Call, pb.ToolRequest], Awaitable[pb.ToolResponse]]

PASSAGE = "雨在三更停了。沈舟把妹妹的鞋塞进怀里，沿着河堤往渡口走。"


class Parts:
    """Starts workers of one test on one bridge's broker."""

    def __init__(self, bridge: Bridge, stack: AsyncExitStack) -> None:
        self.bridge = bridge
        self._stack = stack

    async def _bus(self, name: str) -> NatsBus:
        bus = await NatsBus.open(self.bridge.settings.nats.servers, name, on_closed=lambda: None)
        self._stack.push_async_callback(bus.close)
        return bus

    async def agent(
        self,
        model: Model,
        slots: int = 64,
        observe: Callable[[Bus], Observer] = lambda bus: NOBODY,
        sign: Sign | None = None,
    ) -> Worker:
        """An agent worker, wired as `python -m services.agent` does it."""
        bus = await self._bus("agent")
        worker = Worker(bus, "agent", self.bridge.settings.bus, slots=slots, observer=observe(bus))
        registry = Registry(bus, self.bridge.settings.bus.tool_lease_seconds)
        service = AgentService(Offer({model.name: model}, model.name), LIBRARY, BusToolbox(registry, Asker(bus, sign)))
        worker.job(routes.EXECUTE_AGENT, service.execute, notes=ai.AgentStreamChunk)
        worker.stream(routes.EXECUTE_AGENT_STREAM, service.execute_stream, continues=True)
        await self._start(worker)
        return worker

    async def tools(self, handler: Handler, *listings: Listing) -> None:
        """A tool worker."""
        bus = await self._bus("tool")
        worker = Worker(bus, "tool", self.bridge.settings.bus, slots=64)
        for one in listings:
            worker.rpc(routes.CALL_TOOL, handler, token=one.name)
        await self._start(worker)
        announcer = Announcer(bus, worker.token, self.bridge.settings.bus.tool_lease_seconds, listings)
        await announcer.start()
        self._stack.push_async_callback(announcer.stop)

    async def _start(self, worker: Worker) -> None:
        await worker.start()
        self._stack.push_async_callback(self._drain, worker)
        await eventually(lambda: any(w.id == worker.token for w in self.bridge.presence.workers()))

    @staticmethod
    async def _drain(worker: Worker) -> None:
        if not worker.draining:
            await worker.drain(1)

    async def stream(self, asked: ai.AgentRequest, *metadata: tuple[str, str]) -> list[ai.AgentStreamChunk]:
        """All chunks of a stream."""
        call = self.bridge.streaming(routes.EXECUTE_AGENT_STREAM)(asked, metadata=metadata, timeout=20)
        return [chunk async for chunk in call]


@pytest.fixture
async def parts(bridge: Bridge) -> AsyncIterator[Parts]:
    async with AsyncExitStack() as stack:
        yield Parts(bridge, stack)


async def counts(call: Call, asked: pb.ToolRequest) -> pb.ToolResponse:
    """A tool."""
    zi = len(json.loads(asked.parameters)["text"])
    return pb.ToolResponse(result=json.dumps({"zi": zi, "user": call.user}), success=True, duration_ms=1)


async def test_the_offline_model_calls_two_tools_over_the_bus_and_writes_from_what_they_return(parts: Parts) -> None:
    await parts.tools(counts, listing("text_statistics"), listing("repeated_phrases"))
    await parts.agent(OfflineModel(0, 0))
    asked = request(context={"前文": PASSAGE}, tools=["text_statistics", "repeated_phrases"])
    chunks = await parts.stream(asked)
    assert kinds(chunks) == ["tool_start", "tool_end", "text", "final"]
    results = [json.loads(c.metadata["result"]) for c in chunks if c.chunk_type == "tool_end"]
    assert results == [{"zi": len(PASSAGE), "user": "u1"}] * 2
    assert text_of(chunks).startswith("【离线演示】")
    assert "这次调用了2个工具" in text_of(chunks)
    assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
    numbers = [int(c.metadata["seq"]) for c in chunks]
    assert numbers == sorted(set(numbers))
    assert (chunks[-1].metadata["status"], chunks[-1].metadata["tokens_estimated"]) == ("completed", "true")

    call = parts.bridge.unary(routes.EXECUTE_AGENT)(asked, timeout=20)
    answer: ai.AgentResponse = await call
    assert (answer.status, answer.output) == ("completed", text_of(chunks))
    assert [c.tool_name for c in answer.tool_calls] == ["text_statistics", "repeated_phrases"]
    trailing = dict(await call.trailing_metadata())
    assert (trailing["x-model"], trailing["x-usage-estimated"]) == ("offline", "true")


async def test_tools_and_the_end_of_an_agent_are_told_to_other_services(parts: Parts) -> None:
    settings = parts.bridge.settings
    await parts.tools(counts, listing("text_statistics"), listing("repeated_phrases"))
    await parts.agent(OfflineModel(0, 0), observe=lambda bus: Publisher(bus, settings.bus))
    asked = request(context={"前文": PASSAGE}, tools=["text_statistics", "repeated_phrases"])
    chunks = await parts.stream(asked)
    found: dict[str, list[Data | bytes]] = {}
    async with asyncio.timeout(20):
        async with subscribe(settings.nats.servers, since=BEGINNING, service="agent") as events:
            async for event in events:
                found.setdefault(event.name, []).append(event.data)
                if event.name == "completed":
                    break
    tools = [told for told in found["tool_called"] if isinstance(told, v1.ToolCalled)]
    assert sorted(told.tool for told in tools) == ["repeated_phrases", "text_statistics"]
    assert [told.code for told in tools] == [0, 0]
    [completed] = found["completed"]
    assert isinstance(completed, v1.CallCompleted)
    assert completed.call is not None
    assert completed.usage is not None
    assert (completed.call.target, completed.agent_status) == ("creative", "completed")
    final = chunks[-1].metadata
    used = (completed.usage.prompt_tokens, completed.usage.completion_tokens)
    assert used == (int(final["tokens_prompt"]), int(final["tokens_completion"]))
    assert (completed.usage.model, completed.usage.estimated) == ("offline", True)
    assert len(found["first_token"]) == 1


async def test_a_stream_is_read_again_from_any_chunk(parts: Parts) -> None:
    await parts.tools(counts, listing("text_statistics"))
    await parts.agent(ScriptedModel(calls(("text_statistics", {"text": "夜雨"})), says("夜雨落在瓦上。")))
    asked = request(tools=["text_statistics"])
    chunks = await parts.stream(asked, ("x-request-id", "again"))
    for seen in range(len(chunks) - 1):
        at = chunks[seen].metadata["seq"]
        rest = await parts.stream(asked, ("x-request-id", "again"), ("x-resume-from", at))
        if at == "0":
            continue  # 0 is the whole stream
        assert text_of(rest) == text_of(chunks[seen + 1 :])
        assert rest[-1].is_final


async def test_a_tool_worker_that_fails_or_is_gone_is_a_failed_call(parts: Parts) -> None:
    async def refuses(call: Call, asked: pb.ToolRequest) -> pb.ToolResponse:
        if asked.tool_name == "split_chapters":
            raise Fault(code=3, reason="INVALID_REQUEST", message="No", chinese="不行")  # type: ignore[arg-type]
        status = common.Status(code=9, message="no such list / 没有词表")
        return pb.ToolResponse(success=False, error=status.message, status=status)

    await parts.tools(refuses, listing("sensitive_words"), listing("split_chapters"))
    model = ScriptedModel(calls(("sensitive_words", {}), ("split_chapters", {})), says("好"))
    await parts.agent(model)
    answer: ai.AgentResponse = await parts.bridge.unary(routes.EXECUTE_AGENT)(
        request(tools=["sensitive_words", "split_chapters"]), timeout=20
    )
    assert [(c.status.code, c.status.message) for c in answer.tool_calls] == [
        (9, "no such list / 没有词表"),
        (3, "No / 不行"),
    ]
    assert answer.status == "completed"


async def test_a_busy_tool_worker_is_asked_again(parts: Parts) -> None:
    asked_times = 0

    async def busy(call: Call, asked: pb.ToolRequest) -> pb.ToolResponse:
        nonlocal asked_times
        asked_times += 1
        if asked_times < 3:
            raise Overloaded("This tool worker is busy", "服务繁忙", 1, retry_seconds=0.2)
        return await counts(call, asked)

    await parts.tools(busy, listing("text_statistics", repeatable=False))
    await parts.agent(ScriptedModel(calls(("text_statistics", {"text": "雨"})), says("好")))
    answer: ai.AgentResponse = await parts.bridge.unary(routes.EXECUTE_AGENT)(
        request(tools=["text_statistics"]), timeout=20
    )
    assert (answer.tool_calls[0].status.code, asked_times) == (0, 3)


@pytest.mark.parametrize("unary", [False, True], ids=["stream", "unary"])
async def test_a_worker_that_is_stopped_in_the_text_is_gone_on_for(parts: Parts, unary: bool) -> None:
    made = 0

    async def once(call: Call, asked: pb.ToolRequest) -> pb.ToolResponse:
        nonlocal made
        made += 1
        return await counts(call, asked)

    spoken = asyncio.Event()

    def first(prompt: Prompt, number: int) -> Answer:
        if number == 1:
            return calls(("text_statistics", {"text": "夜雨"}))
        spoken.set()
        return [Delta("夜雨落在"), 60.0]

    def second(prompt: Prompt, number: int) -> Answer:
        assert prompt.turns[-1].content == "夜雨落在"
        assert [turn.role for turn in prompt.turns] == ["system", "user", "assistant", "tool", "assistant"]
        return says("瓦上。")

    await parts.tools(once, listing("text_statistics", repeatable=False))
    worker = await parts.agent(ScriptedModel(script=first))
    asked = request(tools=["text_statistics"])
    running: asyncio.Future[Any]
    if unary:
        running = asyncio.ensure_future(parts.bridge.unary(routes.EXECUTE_AGENT)(asked, timeout=20))
    else:
        running = asyncio.ensure_future(parts.stream(asked))
    await spoken.wait()
    await asyncio.sleep(0.2)
    await parts.agent(ScriptedModel(script=second))
    await worker.drain(0)
    result = await running
    assert (result.output if unary else text_of(result)) == "夜雨落在瓦上。"
    assert made == 1
    if unary:
        assert (result.status, result.stats.tool_calls_count) == ("completed", 1)
    else:
        assert kinds(result) == ["tool_start", "tool_end", "text", "final"]
        assert len({c.metadata["call_id"] for c in result if c.chunk_type == "tool_start"}) == 1


@pytest.mark.parametrize("late", ["timeout_seconds", "the gRPC deadline"])
async def test_whose_time_is_over_makes_no_difference_to_the_text(parts: Parts, late: str) -> None:
    model = ScriptedModel([Delta("夜雨"), 60.0])
    await parts.agent(model)
    own, deadline = (1, 20) if late == "timeout_seconds" else (60, 2)
    asked = request(options={"timeout_seconds": own})
    answer: ai.AgentResponse = await parts.bridge.unary(routes.EXECUTE_AGENT)(asked, timeout=deadline)
    assert (answer.status, answer.output) == ("timeout", "夜雨")
    call = parts.bridge.streaming(routes.EXECUTE_AGENT_STREAM)(asked, timeout=deadline)
    chunks = [chunk async for chunk in call]
    assert (text_of(chunks), chunks[-1].metadata["status"]) == ("夜雨", "timeout")
    await eventually(lambda: model.open == 0)  # and the work stops


async def test_an_agent_that_nobody_has_time_for_before_the_deadline_is_a_status(parts: Parts) -> None:
    model = ScriptedModel([Delta("夜雨"), 60.0])
    await parts.agent(model, slots=1)
    unary = parts.bridge.unary(routes.EXECUTE_AGENT)
    holds = asyncio.ensure_future(unary(request(), timeout=20))
    await eventually(lambda: model.open == 1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unary(request(), timeout=1)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    holds.cancel()
    await eventually(lambda: model.open == 0)
    assert len(model.prompts) == 1


async def test_what_the_worker_refuses_is_a_status_with_details(parts: Parts) -> None:
    await parts.agent(ScriptedModel(says("好")))
    refusal = await parts.bridge.refused(routes.EXECUTE_AGENT, request(options={"model": "gpt-9"}))
    assert (refusal.code, refusal.fault.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_AVAILABLE")
    refusal = await parts.bridge.refused(routes.EXECUTE_AGENT, request(context={"format": "json"}))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in refusal.fault.violations] == ["context['format']"]
    assert refusal.fault.chinese == "请求无效：context['format']：智能体 creative 只写文本，请去掉该项"


async def test_a_context_up_to_the_size_limit_is_answered_and_one_beyond_is_too_large(parts: Parts) -> None:
    model = ScriptedModel(says("好"))
    await parts.agent(model)
    limit = BridgeSettings().max_message_bytes
    frame = len(request(context={"前文": "x" * 3_000_000}).SerializeToString()) - 3_000_000
    largest = request(context={"前文": "x" * (limit - frame)})
    assert len(largest.SerializeToString()) == limit
    answer: ai.AgentResponse = await parts.bridge.unary(routes.EXECUTE_AGENT)(largest, timeout=20)
    assert (answer.status, answer.response_status.details) == ("failed", "AGENT_CONTEXT_TOO_LONG")
    assert not model.prompts
    beyond = await parts.bridge.refused(routes.EXECUTE_AGENT, request(context={"前文": "x" * (limit - frame + 1)}))
    assert (beyond.code, beyond.fault.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE")


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_caller_who_leaves_while_a_tool_runs_stops_the_tool(parts: Parts, how: str) -> None:
    """The tool's own call is another one, of another worker: it hears of it too."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def waits(call: Call, asked: pb.ToolRequest) -> pb.ToolResponse:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return pb.ToolResponse(success=True)

    await parts.tools(waits, listing("slow"))
    model = ScriptedModel(calls(("slow", "{}")), says("不会到这里"))
    await parts.agent(model)
    timeout = 20 if how == "cancel" else 2
    call = parts.bridge.streaming(routes.EXECUTE_AGENT_STREAM)(request(tools=["slow"]), timeout=timeout)
    assert (await call.read()).chunk_type == "tool_start"
    await begun.wait()
    if how == "cancel":
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
    else:
        end, final = await call.read(), await call.read()
        assert (end.chunk_type, end.metadata["code"], final.metadata["status"]) == ("tool_end", "4", "timeout")
    await eventually(ended.is_set)
    assert len(model.prompts) == 1
