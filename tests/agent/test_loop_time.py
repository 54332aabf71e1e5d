"""The loop with a scripted model that takes its time, and callers who have none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from qingyu_ai.bus.errors import Code, Expired
from qingyu_ai.bus.handler import Call
from services.agent.chunks import Before
from services.agent.loop import Run
from services.agent.prompting import plan
from services.agent.toolbox import ToolResult
from services.llm.model import Delta, Prompt
from tests.waiting import eventually

from .scripted import (
    LIBRARY,
    Answer,
    Box,
    Lab,
    ScriptedModel,
    calls,
    new_call,
    request,
)

CREATIVE = LIBRARY.find("creative")
assert CREATIVE is not None
TASK = plan(CREATIVE, request(), Box())


async def test_timeout_seconds_ends_with_the_text_so_far() -> None:
    model = ScriptedModel([Delta("雨停了，"), 30.0, Delta("没有了")])
    began = time.monotonic()
    answer = await Lab(model).ask(request(options={"timeout_seconds": 1}))
    assert time.monotonic() - began < 3
    assert (answer.status, answer.output) == ("timeout", "雨停了，")
    assert answer.response_status.code == Code.DEADLINE_EXCEEDED
    assert answer.response_status.details == "AGENT_TIMEOUT"
    assert "timeout_seconds" in answer.response_status.message
    assert 900 <= answer.stats.duration_ms < 3000
    assert answer.stats.tokens_used > 0
    assert model.open == 0


class Unhurried(Box):
    """Its tools do not end by themselves at the very moment at which the agent's time is over."""

    async def call(
        self, call: Call, name: str, arguments: str, *, part: str, seconds: float, patience: float
    ) -> ToolResult:
        return await super().call(call, name, arguments, part=part, seconds=seconds + 10, patience=patience)


async def test_a_tool_that_runs_when_the_time_is_over_is_ended_and_recorded() -> None:
    async def sleeps(arguments: dict[str, Any]) -> ToolResult:
        await asyncio.sleep(10)
        raise AssertionError

    box = Unhurried().with_tool("slow", sleeps, seconds=30).with_tool("text_statistics")
    model = ScriptedModel(calls(("slow", {}), ("text_statistics", {})))
    answer = await Lab(model, box).ask(request(tools=["slow", "text_statistics"], options={"timeout_seconds": 1}))
    assert answer.status == "timeout"
    assert [c.status.code for c in answer.tool_calls] == [Code.DEADLINE_EXCEEDED, 0]
    assert "时间用完时 slow 还在运行" in answer.tool_calls[0].status.message
    assert box.running == 0


async def test_a_model_that_never_waits_is_stopped_at_the_timeout() -> None:
    def script(prompt: Prompt, number: int) -> Answer:
        class Endless:
            def __iter__(self) -> Any:
                while True:
                    yield Delta("字")

        return Endless()  # type: ignore[return-value]

    lab = Lab(ScriptedModel(script=script))
    # In a stream, so that a turn of the event loop comes between: a real model waits for its socket.
    chunks = await lab.stream(request(options={"timeout_seconds": 1}))
    assert chunks[-1].metadata["status"] == "timeout"


async def test_an_agent_stops_in_time_to_give_its_text_before_the_calls_deadline() -> None:
    model = ScriptedModel([Delta("雨停了，"), 30.0])
    call = new_call(1.0)
    answer = await Lab(model).ask(request(options={"timeout_seconds": 60}), call)
    assert not call.deadline.passed
    assert (answer.status, answer.output) == ("timeout", "雨停了，")
    assert (answer.response_status.code, answer.response_status.details) == (Code.DEADLINE_EXCEEDED, "AGENT_TIMEOUT")
    assert "gRPC deadline / 智能体在调用截止时间之前停止" in answer.response_status.message
    assert model.open == 0


async def test_an_agent_stops_a_second_at_most_before_a_late_deadline() -> None:
    call = new_call(100.0)
    run = Run(TASK, ScriptedModel(), None, Box(), call, Before())
    assert 0.9 < call.deadline.at - run._deadline.at <= 1.0


async def test_an_agent_whose_call_has_no_time_left_is_a_status() -> None:
    model = ScriptedModel([Delta("雨"), 30.0])
    with pytest.raises(Expired):
        await Lab(model).ask(request(options={"timeout_seconds": 60}), new_call(-0.1))
    assert not model.prompts


async def test_leaving_the_stream_closes_the_model_and_ends_the_tools() -> None:
    async def sleeps(arguments: dict[str, Any]) -> ToolResult:
        await asyncio.sleep(10)
        raise AssertionError

    model = ScriptedModel([Delta("雨"), Delta("停"), 30.0])
    stream = Lab(model).service.execute_stream(new_call(), request())
    await anext(stream)
    await stream.aclose()
    assert model.open == 0
    box = Box().with_tool("slow", sleeps)
    stream = Lab(ScriptedModel(calls(("slow", {}))), box).service.execute_stream(new_call(), request(tools=["slow"]))
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await eventually(lambda: box.running == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert box.running == 0
