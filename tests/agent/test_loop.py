"""The loop with a scripted model: what goes through it, and requests that it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qingyu_ai.bus.errors import Code, Fault, Invalid, ModelNotAvailable
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.agent.toolbox import ToolResult
from services.llm.model import Delta, ToolCallDelta
from services.llm.tokens import estimate_tokens

from .scripted import (
    COST,
    REFUSED,
    Answer,
    Box,
    Lab,
    ScriptedModel,
    calls,
    kinds,
    request,
    says,
    text_of,
    two_tools,
)


async def test_text_goes_through_and_the_last_chunk_has_stats_and_status() -> None:
    chunks = await Lab(ScriptedModel(says("雨停了，他推开门。"))).stream(request())
    assert text_of(chunks) == "雨停了，他推开门。"
    assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
    facts = chunks[-1].metadata
    assert (facts["status"], facts["code"], facts["tokens_used"], facts["tokens_estimated"]) == (
        "completed",
        "0",
        "110",
        "false",
    )
    assert (facts["tool_calls_count"], facts["retry_count"], facts["finish_reason"]) == ("0", "0", "stop")
    assert all(c.metadata["seq"] == str(i) for i, c in enumerate(chunks))


async def test_the_answer_in_one_piece_is_what_the_stream_says() -> None:
    def model() -> ScriptedModel:
        return ScriptedModel(
            calls(("text_statistics", {"text": "夜雨"}), ("repeated_phrases", {"text": "夜雨"}), text="先数一数。"),
            says("夜雨落在瓦上。", reasoning="两个字。"),
        )

    asked = request(tools=["text_statistics", "repeated_phrases"], options={"enable_reasoning": True})
    chunks = await Lab(model(), two_tools()).stream(asked)
    answer = await Lab(model(), two_tools()).ask(asked)
    assert answer.output == text_of(chunks) == "先数一数。\n\n夜雨落在瓦上。"
    assert kinds(chunks) == ["text", "tool_start", "tool_end", "reasoning", "text", "final"]
    assert list(answer.reasoning) == ["两个字。"]
    assert [(c.tool_name, json.loads(c.parameters), json.loads(c.result)) for c in answer.tool_calls] == [
        ("text_statistics", {"text": "夜雨"}, {"zi": 2}),
        ("repeated_phrases", {"text": "夜雨"}, {"zi": 2}),
    ]
    assert all(c.status.code == 0 for c in answer.tool_calls)
    assert (answer.status, answer.response_status.code) == ("completed", 0)
    assert (answer.stats.tokens_used, answer.stats.tool_calls_count, answer.stats.retry_count) == (220, 2, 0)
    assert answer.metadata.user_id == "u1"
    assert answer.metadata.request_id
    ends = {c.metadata["call_id"]: c.metadata for c in chunks if c.chunk_type == "tool_end"}
    for start in (c.metadata for c in chunks if c.chunk_type == "tool_start"):
        end = ends[start["call_id"]]
        assert (start["tool_name"], json.loads(start["parameters"])) == (end["tool_name"], {"text": "夜雨"})
        assert (end["success"], json.loads(end["result"])) == ("true", {"zi": 2})
        assert int(end["duration_ms"]) >= 0


async def test_the_model_is_told_what_it_called_and_what_came_of_it() -> None:
    model = ScriptedModel(calls(("text_statistics", {"text": "夜雨"}), text="先数。"), says("好。"))
    await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    first, second = model.prompts
    assert [tool.name for tool in first.tools] == ["text_statistics"]
    assistant, tool = second.turns[len(first.turns) :]
    assert (assistant.role, assistant.content) == ("assistant", "先数。")
    [made] = assistant.tool_calls
    assert (made.name, json.loads(made.arguments)) == ("text_statistics", {"text": "夜雨"})
    assert (tool.role, tool.tool_call_id, json.loads(tool.content)) == ("tool", made.id, {"zi": 2})
    assert (first.max_tokens, second.max_tokens) == (8192, 8192 - estimate_tokens("先数。"))


async def test_several_tools_run_at_once_and_the_calls_stand_in_the_order_of_asking() -> None:
    async def slow(arguments: dict[str, Any]) -> ToolResult:
        await asyncio.sleep(0.1)
        return ToolResult("1")

    box = Box().with_tool("slow", slow).with_tool("text_statistics")
    model = ScriptedModel(calls(("slow", {}), ("text_statistics", {}), ("slow", {})), says("好"))
    chunks = await Lab(model, box).stream(request(tools=["slow", "text_statistics"]))
    assert box.most == 2  # the quick one ends before the second slow one begins
    ended = [c.metadata["tool_name"] for c in chunks if c.chunk_type == "tool_end"]
    assert ended == ["text_statistics", "slow", "slow"]
    answer = await Lab(ScriptedModel(calls(("slow", {}), ("text_statistics", {})), says("好")), box).ask(
        request(tools=["slow", "text_statistics"])
    )
    assert [c.tool_name for c in answer.tool_calls] == ["slow", "text_statistics"]


async def test_ids_that_a_model_uses_again_become_others() -> None:
    model = ScriptedModel(calls(("text_statistics", {})), calls(("text_statistics", {})), says("好"))
    chunks = await Lab(model, two_tools()).stream(request(tools=["text_statistics"]))
    ids = [c.metadata["call_id"] for c in chunks if c.chunk_type == "tool_start"]
    assert ids == ["id0", "s002c0000"]


async def test_calls_that_all_have_the_index_zero_are_several() -> None:
    answer: Answer = [
        Delta(tool_calls=(ToolCallDelta(0, "a", "text_statistics", '{"text": "一"}'),)),
        Delta(
            tool_calls=(ToolCallDelta(0, "b", "text_statistics", '{"text": '), ToolCallDelta(0, arguments='"二二"}'))
        ),
        Delta(finish="tool_calls", usage=COST),
    ]
    box = two_tools()
    await Lab(ScriptedModel(answer, says("好")), box).ask(request(tools=["text_statistics"]))
    assert [json.loads(arguments) for _, arguments, _ in box.made] == [{"text": "一"}, {"text": "二二"}]


async def test_tools_that_nobody_serves_are_named_and_the_rest_is_done() -> None:
    model = ScriptedModel(says("好"))
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistic", "text_statistics"]))
    assert answer.status == "completed"
    assert answer.response_status.code == 0
    assert "text_statistic" in answer.response_status.message
    assert answer.metadata.extra["missing_tools"] == "text_statistic"
    assert [tool.name for tool in model.prompts[0].tools] == ["text_statistics"]
    assert "以下工具这一次不可用：text_statistic。" in model.prompts[0].turns[0].content


async def test_an_agent_that_does_not_exist_is_refused_by_the_worker_too() -> None:
    with pytest.raises(Invalid, match="agent_type: must be one of creative"):
        await Lab(ScriptedModel(says("好"))).ask(request("poet"))


async def test_a_model_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelNotAvailable):
        await Lab(ScriptedModel(says("好"))).ask(request(options={"model": "gpt-9"}))


async def test_json_of_an_agent_that_writes_text_is_refused() -> None:
    with pytest.raises(Invalid, match=r"context\['format'\]: the agent creative writes text only"):
        await Lab(ScriptedModel(says("好"))).ask(request(context={"format": "json"}))


async def test_a_context_of_megabytes_is_refused_before_it_costs_anything() -> None:
    model = ScriptedModel(says("好"))
    answer = await Lab(model).ask(request(context={"前文": "雨落在瓦上。" * 200_000}))
    assert (answer.status, answer.response_status.details) == ("failed", "AGENT_CONTEXT_TOO_LONG")
    assert "300000" in answer.response_status.message
    assert not model.prompts
    assert answer.stats.tokens_used == 0


async def test_a_long_context_below_the_limit_is_sent_whole() -> None:
    model = ScriptedModel(says("好"))
    text = "雨落在瓦上。" * 50_000
    answer = await Lab(model).ask(request(context={"前文": text}))
    assert answer.status == "completed"
    assert text in model.prompts[0].turns[1].content


async def test_options_reach_the_model() -> None:
    model = ScriptedModel(says("好"))
    await Lab(model).ask(request(options={"temperature": 0.7, "max_tokens": 500}))
    assert (model.prompts[0].temperature, model.prompts[0].max_tokens) == (0.7, 500)
    await Lab(model).ask(request("review"))
    assert (model.prompts[1].temperature, model.prompts[1].max_tokens) == (0.2, 6144)


async def test_a_fault_of_another_kind_is_a_failure_too() -> None:
    fault = Fault(Code.PERMISSION_DENIED, "NO", "No", "不行")
    answer = await Lab(ScriptedModel([fault])).ask(request())
    assert (answer.status, answer.response_status.code) == ("failed", Code.PERMISSION_DENIED)
    assert answer.response_status.message == "No / 不行"


async def test_stats_are_always_set() -> None:
    answer = await Lab(ScriptedModel([REFUSED])).ask(request())
    assert answer.HasField("stats")
    assert answer.HasField("response_status")
    chunk: ai.AgentStreamChunk = (await Lab(ScriptedModel([REFUSED])).stream(request()))[-1]
    assert {"status", "tokens_used", "duration_ms", "tool_calls_count", "retry_count"} <= set(chunk.metadata)
