"""The loop with a scripted model: steps, tools, limits, retries, endings."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from qingyu_ai.bus.errors import Code, Expired, Fault, Invalid, ModelNotAvailable
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.agent.prompting import ANSWER_NOW
from services.agent.toolbox import ToolResult
from services.llm.faults import Upstream, UpstreamFault
from services.llm.gate import Stopped
from services.llm.model import LENGTH, Delta, Prompt, ToolCallDelta, Usage
from services.llm.tokens import estimate_tokens

from .scripted import COST, Answer, Box, Lab, ScriptedModel, calls, kinds, new_call, request, says, text_of

BUSY = UpstreamFault(Upstream.FAILED, "scripted")
REFUSED = UpstreamFault(Upstream.KEY_REFUSED, "scripted")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agent.loop.BACKOFF_FIRST", 0.01)


def two_tools() -> Box:
    return Box().with_tool("text_statistics").with_tool("repeated_phrases")


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


# A model or a tool that misbehaves.


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


async def test_more_calls_at_once_than_are_allowed_are_refused() -> None:
    box = two_tools()
    model = ScriptedModel(calls(*[("text_statistics", {})] * 11), says("好"))
    answer = await Lab(model, box).ask(request(tools=["text_statistics"]))
    assert len(box.made) == 8
    codes = [c.status.code for c in answer.tool_calls]
    assert codes == [0] * 8 + [Code.RESOURCE_EXHAUSTED] * 3


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


# Retries.


async def test_a_step_that_failed_before_it_said_anything_is_tried_again() -> None:
    model = ScriptedModel([BUSY], [Delta(tool_calls=(ToolCallDelta(0, "a", "x"),)), BUSY], says("好"))
    answer = await Lab(model).ask(request())
    assert (answer.status, answer.output, answer.stats.retry_count) == ("completed", "好", 2)


async def test_max_retries_is_obeyed() -> None:
    model = ScriptedModel([BUSY])
    answer = await Lab(model).ask(request(options={"max_retries": 1}))
    assert (answer.status, answer.stats.retry_count, len(model.prompts)) == ("failed", 1, 2)
    assert answer.response_status.code == Code.UNAVAILABLE
    assert answer.response_status.details == "MODEL_FAILED"
    assert "上游出错" in answer.response_status.message


async def test_what_would_fail_again_is_not_tried_again() -> None:
    model = ScriptedModel([REFUSED])
    answer = await Lab(model).ask(request())
    assert (answer.status, answer.response_status.details, len(model.prompts)) == ("failed", "MODEL_KEY_REFUSED", 1)


async def test_a_failure_in_the_middle_of_the_text_keeps_it() -> None:
    model = ScriptedModel([Delta("雨停"), Delta("了"), UpstreamFault(Upstream.STREAM_CUT, "scripted")])
    lab = Lab(model)
    answer = await lab.ask(request())
    assert (answer.status, answer.output, answer.stats.retry_count) == ("failed", "雨停了", 0)
    assert (answer.response_status.details, answer.metadata.extra["finish_reason"]) == ("MODEL_STREAM_CUT", "cut")
    assert answer.metadata.extra["tokens_estimated"] == "true"
    assert answer.stats.tokens_used > 0
    chunks = await lab.stream(request())
    assert (text_of(chunks), kinds(chunks)) == ("雨停了", ["text", "final"])
    assert chunks[-1].metadata["status"] == "failed"


async def test_thought_that_was_shown_is_not_thought_again_and_hidden_thought_may_be() -> None:
    broken: Answer = [Delta(reasoning="想一想"), BUSY]
    shown = await Lab(ScriptedModel(broken, says("好"))).ask(request(options={"enable_reasoning": True}))
    assert (shown.status, list(shown.reasoning)) == ("failed", ["想一想"])
    hidden = await Lab(ScriptedModel(broken, says("好"))).ask(request())
    assert (hidden.status, hidden.output, list(hidden.reasoning)) == ("completed", "好", [])


async def test_reasoning_is_streamed_only_if_it_is_enabled() -> None:
    model = ScriptedModel(says("好", reasoning="想一想"))
    assert kinds(await Lab(model).stream(request())) == ["text", "final"]
    enabled = request(options={"enable_reasoning": True})
    assert kinds(await Lab(model).stream(enabled)) == ["reasoning", "text", "final"]


async def test_a_stream_without_an_end_has_failed() -> None:
    answer = await Lab(ScriptedModel([Delta("雨停了，他")])).ask(request())
    assert (answer.status, answer.output, answer.response_status.details) == (
        "failed",
        "雨停了，他",
        "MODEL_STREAM_CUT",
    )


async def test_an_empty_answer_is_asked_for_again_and_then_fails() -> None:
    empty: Answer = [Delta(finish="stop", usage=COST)]
    answer = await Lab(ScriptedModel(empty, says("好"))).ask(request())
    assert (answer.output, answer.stats.retry_count, answer.stats.tokens_used) == ("好", 1, 220)
    answer = await Lab(ScriptedModel(empty)).ask(request(options={"max_retries": 1}))
    assert (answer.status, answer.response_status.details) == ("failed", "MODEL_ANSWER_EMPTY")


async def test_an_answer_that_is_cut_at_max_tokens_is_completed_and_says_length() -> None:
    model = ScriptedModel(says("雨停了", finish=LENGTH, usage=Usage(100, 20, estimated=False)))
    answer = await Lab(model, two_tools()).ask(request(options={"max_tokens": 20}, tools=["text_statistics"]))
    assert (answer.status, answer.metadata.extra["finish_reason"]) == ("completed", "length")
    assert [p.max_tokens for p in model.prompts] == [20]


async def test_a_text_with_tools_that_is_cut_by_the_server_goes_on() -> None:
    model = ScriptedModel(says("雨停了，", finish=LENGTH), says("他推开门。"))
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output) == ("completed", "雨停了，他推开门。")
    assert model.prompts[1].turns[-1].content == "雨停了，"
    assert not model.prompts[1].tools
    assert model.prompts[1].max_tokens == 8192 - 10


class Stops:
    """A gate that ends a text at a word."""

    def feed(self, text: str) -> str:
        if "禁" in text:
            raise Stopped(text.partition("禁")[0])
        return text

    def close(self) -> str:
        return ""


async def test_an_answer_that_a_check_ends_has_failed_and_keeps_what_came_before() -> None:
    answer = await Lab(ScriptedModel(says("雨停了禁书", size=2)), new_gate=Stops).ask(request())
    assert (answer.status, answer.output) == ("failed", "雨停了")
    assert answer.response_status.details == "AGENT_ANSWER_STOPPED"
    assert answer.metadata.extra["finish_reason"] == "content_filter"


# Time.


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


async def test_a_tool_that_runs_when_the_time_is_over_is_ended_and_recorded() -> None:
    async def sleeps(arguments: dict[str, Any]) -> ToolResult:
        await asyncio.sleep(10)
        raise AssertionError

    box = Box().with_tool("slow", sleeps, seconds=30).with_tool("text_statistics")
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


async def test_the_callers_deadline_comes_first() -> None:
    model = ScriptedModel([Delta("雨"), 30.0])
    with pytest.raises(Expired):
        await Lab(model).ask(request(options={"timeout_seconds": 60}), new_call(0.2))
    assert model.open == 0


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
    await asyncio.sleep(0.05)
    assert box.running == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert box.running == 0


# Requests.


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
