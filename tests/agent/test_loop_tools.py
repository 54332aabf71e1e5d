"""The loop with a scripted model that misbehaves, or whose tools do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qingyu_ai.bus.errors import Code
from services.agent.prompting import ANSWER_NOW
from services.agent.toolbox import ToolResult
from services.llm.model import Delta, Prompt, ToolCallDelta, Usage

from .scripted import (
    COST,
    Answer,
    Box,
    Lab,
    ScriptedModel,
    calls,
    new_call,
    request,
    says,
    two_tools,
)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (("delete_everything", {}), Code.NOT_FOUND, "'delete_everything'"),
        (("repeated_phrases", {}), Code.NOT_FOUND, "text_statistics"),  # it exists, but the request does not name it
        (("", {}), Code.NOT_FOUND, "''"),
        (("text_statistics", '{"text": "夜'), Code.INVALID_ARGUMENT, '{"text": "夜'),
        (("text_statistics", "[1, 2]"), Code.INVALID_ARGUMENT, "[1, 2]"),
        (("text_statistics", "夜雨"), Code.INVALID_ARGUMENT, "夜雨"),
        (("text_statistics", '{"text": NaN}'), Code.INVALID_ARGUMENT, "NaN"),
        # Encoded twice, with half a character.
        (("text_statistics", json.dumps('{"text": "\ud83d"}')), Code.INVALID_ARGUMENT, "ud83d"),
        (("text_statistics", json.dumps('["\ud83d"]')), Code.INVALID_ARGUMENT, "ud83d"),
    ],
)
async def test_a_wrong_call_goes_back_to_the_model_and_is_recorded_as_failed(
    asked: tuple[str, Any], code: Code, said: str
) -> None:
    box = two_tools()
    model = ScriptedModel(calls(asked), says("那就直接写。"))
    answer = await Lab(model, box).ask(request(tools=["text_statistics"]))
    assert not box.made
    assert (answer.status, answer.output) == ("completed", "那就直接写。")
    [made] = answer.tool_calls
    assert (made.status.code, made.result, made.parameters) == (code, "", "{}")
    assert " / " in made.status.message
    told = model.prompts[1].turns[-1]
    assert told.role == "tool"
    assert said in told.content
    json.loads(model.prompts[1].turns[-2].tool_calls[0].arguments)  # servers refuse a history that is no JSON


@pytest.mark.parametrize(
    "arguments", ["", "null", " {} ", '"{\\"text\\": \\"夜雨\\"}"'], ids=["empty", "null", "blank", "encoded twice"]
)
async def test_arguments_that_can_be_understood_are(arguments: str) -> None:
    box = two_tools()
    answer = await Lab(ScriptedModel(calls(("text_statistics", arguments)), says("好"))).ask(request())
    assert answer.output == ""  # no tools were named, so nothing was called
    answer = await Lab(ScriptedModel(calls(("text_statistics", arguments)), says("好")), box).ask(
        request(tools=["text_statistics"])
    )
    assert (answer.output, answer.tool_calls[0].status.code) == ("好", 0)


async def test_a_tool_that_fails_is_a_result() -> None:
    async def fails(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(code=int(Code.FAILED_PRECONDITION), message="No such chapter / 没有这一章")

    model = ScriptedModel(calls(("split", {})), says("没有查到。"))
    answer = await Lab(model, Box().with_tool("split", fails)).ask(request(tools=["split"]))
    assert (answer.status, answer.tool_calls[0].status.code) == ("completed", Code.FAILED_PRECONDITION)
    assert model.prompts[1].turns[-1].content == "No such chapter / 没有这一章"


async def test_a_tool_that_takes_too_long_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agent.calling.MARGIN_SECONDS", 0.0)

    async def sleeps(arguments: dict[str, Any]) -> ToolResult:
        await asyncio.sleep(10)
        raise AssertionError

    box = Box().with_tool("slow", sleeps, seconds=0.05)
    answer = await Lab(ScriptedModel(calls(("slow", {})), says("不等了。")), box).ask(request(tools=["slow"]))
    assert (answer.status, answer.tool_calls[0].status.code) == ("completed", Code.DEADLINE_EXCEEDED)
    assert box.running == 0


async def test_a_tool_has_time_for_its_turn_and_its_work_and_never_more_than_the_execution() -> None:
    box = Box().with_tool("counts", seconds=5.0)
    box.listings["counts"] = box.listings["counts"].model_copy(update={"wait_seconds": 10.0})
    model = ScriptedModel(calls(("counts", {})), says("好"), calls(("counts", {})), says("好"))
    await Lab(model, box).ask(request(tools=["counts"]))
    await Lab(model, box).ask(request(tools=["counts"], options={"timeout_seconds": 8}))
    (seconds, patience), (short, half) = box.given
    assert seconds == 16.0
    assert 29 < patience <= 30
    assert 7.5 < short <= 8
    assert 3.7 < half <= 4


async def test_more_calls_at_once_than_are_allowed_are_refused() -> None:
    box = two_tools()
    model = ScriptedModel(calls(*[("text_statistics", {})] * 11), says("好"))
    answer = await Lab(model, box).ask(request(tools=["text_statistics"]))
    assert len(box.made) == 8
    codes = [c.status.code for c in answer.tool_calls]
    assert codes == [0] * 8 + [Code.RESOURCE_EXHAUSTED] * 3


async def test_a_model_that_wants_five_thousand_calls_at_once_gets_the_first_and_is_told() -> None:
    box = two_tools()
    model = ScriptedModel(calls(*[("text_statistics", {})] * 5000), says("好"))
    answer = await Lab(model, box).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output, len(box.made)) == ("completed", "好", 8)
    assert [c.status.code for c in answer.tool_calls] == [0] * 8 + [Code.RESOURCE_EXHAUSTED] * 24
    assert answer.stats.tool_calls_count == 32
    assistant, *results = model.prompts[1].turns[-33:]
    assert len(assistant.tool_calls) == len(results) == 32
    assert "一次最多 8 个，其余的稍后再试" in results[-1].content


async def test_an_id_like_those_that_are_given_here_is_not_given_again() -> None:
    def like(*ids: str) -> Answer:
        pieces = [Delta(tool_calls=(ToolCallDelta(i, one, "text_statistics", "{}"),)) for i, one in enumerate(ids)]
        return [*pieces, Delta(finish="tool_calls", usage=COST, model="scripted")]

    model = ScriptedModel(like("s002c0001", "a"), like("b", "a"), says("好。"))
    chunks = await Lab(model, two_tools()).stream(request(tools=["text_statistics"]))
    ids = [c.metadata["call_id"] for c in chunks if c.chunk_type == "tool_start"]
    assert len(set(ids)) == 4


async def test_ids_and_names_are_cut_and_cleaned_and_each_call_keeps_one_of_its_own() -> None:
    def call(index: int, identity: str, name: str) -> Delta:
        return Delta(tool_calls=(ToolCallDelta(index, identity, name, "{}"),))

    wild = [call(0, "x" * 1000, "text_statistics"), call(1, "a\ud800 b/c", "\ud800"), call(2, "x" * 64 + "y", "")]
    model = ScriptedModel([*wild, Delta(finish="tool_calls", usage=COST)], says("好"))
    chunks = await Lab(model, two_tools()).stream(request(tools=["text_statistics"]))
    started = [c.metadata for c in chunks if c.chunk_type == "tool_start"]
    assert [one["call_id"] for one in started] == ["x" * 64, "a__b_c", "s001c0002"]
    assert [one["tool_name"] for one in started] == ["text_statistics", "?", ""]
    assert [turn.tool_call_id for turn in model.prompts[1].turns[-3:]] == [one["call_id"] for one in started]


async def test_a_long_result_is_cut_for_the_model_and_whole_for_the_caller() -> None:
    async def long(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(json.dumps("字" * 50_000, ensure_ascii=False))

    model = ScriptedModel(calls(("long", {})), says("好"))
    answer = await Lab(model, Box().with_tool("long", long)).ask(request(tools=["long"]))
    assert len(answer.tool_calls[0].result) == 50_002
    assert len(model.prompts[1].turns[-1].content) < 17_000


async def test_results_that_are_too_large_are_failures() -> None:
    async def large(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(json.dumps("x" * int(arguments["size"])))

    box = Box().with_tool("large", large)
    too_large = ScriptedModel(calls(("large", {"size": 600_000})), says("好"))
    answer = await Lab(too_large, box).ask(request(tools=["large"]))
    assert (answer.status, answer.tool_calls[0].status.code) == ("completed", Code.RESOURCE_EXHAUSTED)
    assert not answer.tool_calls[0].result
    together = ScriptedModel(calls(*[("large", {"size": 500_000})] * 6), says("好"))
    answer = await Lab(together, box).ask(request(tools=["large"]))
    assert sorted(c.status.code for c in answer.tool_calls) == [0] * 4 + [Code.RESOURCE_EXHAUSTED] * 2


async def test_arguments_without_end_are_refused() -> None:
    box = two_tools()
    answer = await Lab(ScriptedModel(calls(("text_statistics", {"text": "字" * 100_001})), says("好")), box).ask(
        request(tools=["text_statistics"])
    )
    assert (answer.tool_calls[0].status.code, answer.tool_calls[0].parameters) == (Code.INVALID_ARGUMENT, "{}")
    assert len(answer.tool_calls[0].status.details) == 1000
    assert not box.made


async def test_a_tool_that_must_not_be_repeated_waits_until_its_start_is_stored() -> None:
    order: list[str] = []

    async def flush() -> None:
        order.append("flush")

    async def function(arguments: dict[str, Any]) -> ToolResult:
        order.append("tool")
        return ToolResult("1")

    for repeatable, expected in ((False, ["flush", "tool"]), (True, ["tool"])):
        order.clear()
        call = new_call()
        call.flush = flush
        box = Box().with_tool("pay", function, repeatable=repeatable)
        await Lab(ScriptedModel(calls(("pay", {})), says("好")), box).ask(request(tools=["pay"]), call)
        assert order == expected


async def test_words_before_the_tools_are_no_answer() -> None:
    model = ScriptedModel(calls(("text_statistics", {}), text="先数一数。"), [Delta(finish="stop", usage=COST)])
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"], options={"max_retries": 1}))
    assert (answer.status, answer.output) == ("failed", "先数一数。")
    assert (answer.response_status.details, answer.stats.retry_count) == ("MODEL_ANSWER_EMPTY", 1)


async def test_a_model_that_calls_tools_for_ever_is_asked_once_without_them() -> None:
    def script(prompt: Prompt, number: int) -> Answer:
        return calls(("text_statistics", {})) if prompt.tools else says("好，写。")

    model = ScriptedModel(script=script)
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output) == ("completed", "好，写。")
    assert len(model.prompts) == 8
    assert answer.stats.tool_calls_count == 7
    assert not model.prompts[-1].tools
    assert model.prompts[-1].turns[-1].content.endswith(ANSWER_NOW)
    assert ANSWER_NOW not in model.prompts[-2].turns[-1].content


async def test_a_model_that_calls_tools_even_then_has_failed() -> None:
    model = ScriptedModel(calls(("text_statistics", {})))
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.response_status.details) == ("failed", "AGENT_NO_ANSWER")
    assert answer.stats.tool_calls_count == 7
    assert answer.stats.tokens_used == 8 * 110


async def test_once_the_tokens_are_used_up_the_model_must_answer() -> None:
    dear = Usage(200_000, 100_001, estimated=False)
    model = ScriptedModel(calls(("text_statistics", {}), usage=dear), says("好"))
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    assert (answer.output, len(model.prompts), model.prompts[1].tools) == ("好", 2, ())
