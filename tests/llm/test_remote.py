"""One request to one model: what it says comes through."""

from __future__ import annotations

import time
from typing import Any

import pytest

from services.llm.model import FILTERED, LENGTH, STOP, TOOL_CALLS, Prompt, Tool, ToolCallDelta, Turn
from tests.upstream.replies import chat, choices, ending, opening, tool_calls
from tests.upstream.script import (
    Counts,
    Done,
    Finish,
    Reasoning,
    Reply,
    Role,
    Stall,
    Text,
)

from .conftest import KEY, TEXT, Lab, ask


async def test_text_usage_finish_and_model_come_through(lab: Lab) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, usage=Counts(12, 34))))
    assert answer.text == TEXT
    assert (answer.last.finish, answer.last.model) == (STOP, "m")
    assert answer.last.usage is not None
    assert (answer.last.usage.prompt_tokens, answer.last.usage.completion_tokens) == (12, 34)
    assert not answer.last.usage.estimated
    [seen] = lab.upstream.seen()
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body["stream"] is True
    assert seen.body["stream_options"] == {"include_usage": True}
    assert seen.body["messages"] == [{"role": "user", "content": "雨停了吗？"}]


@pytest.mark.parametrize("where", ["asked", "own", "last"])
async def test_usage_counts_wherever_it_comes(lab: Lab, where: Any) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, usage=Counts(12, 34, reasoning=5), usage_in=where)))
    usage = answer.last.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (12, 34, 5)


async def test_usage_that_does_not_come_is_counted_here_and_marked(lab: Lab) -> None:
    usage = (await ask(lab.remote("m", chat(TEXT)))).last.usage
    assert usage is not None
    assert usage.estimated
    assert 10 < usage.completion_tokens < 30


async def test_usage_that_the_server_promises_and_does_not_send_is_not_waited_for(lab: Lab) -> None:
    began = time.monotonic()
    answer = await ask(lab.remote("m", opening(TEXT, Finish(), Stall())))
    assert (answer.text, answer.last.finish) == (TEXT, STOP)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_thought_comes_apart_from_text(lab: Lab, key: Any) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, reasoning="她要看雨。", reasoning_key=key)))
    assert (answer.reasoning, answer.text) == ("她要看雨。", TEXT)


async def test_thought_after_text_keeps_its_place(lab: Lab) -> None:
    steps = (Text("一"), Reasoning("想"), Text("二"), *ending())
    answer = await ask(lab.remote("m", Reply(steps, joined=True)))
    assert "".join(d.reasoning + d.text for d in answer.deltas) == "一想二"


async def test_tool_calls_come_in_pieces(lab: Lab) -> None:
    arguments = '{"text": "雨停了"}'
    model = lab.remote("m", tool_calls(("call_1", "statistics", arguments), ("call_2", "names", "{}")))
    prompt = Prompt((Turn("user", "数一数"),), tools=(Tool("statistics", "字数", {"type": "object"}),))
    answer = await ask(model, prompt)
    pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
    assert pieces[0] == ToolCallDelta(0, "call_1", "statistics")
    assert "".join(p.arguments for p in pieces if p.index == 0) == arguments
    assert [p.name for p in pieces if p.index == 1 and p.name] == ["names"]
    assert answer.last.finish == TOOL_CALLS
    [seen] = lab.upstream.seen()
    assert seen.body["tools"][0]["function"]["name"] == "statistics"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", STOP),
        ("length", LENGTH),
        ("content_filter", FILTERED),
        ("sensitive", FILTERED),
        ("eos", STOP),
        ("宝", STOP),
    ],
)
async def test_finish_reasons_are_translated(lab: Lab, said: str, meant: str) -> None:
    assert (await ask(lab.remote("m", chat(TEXT, finish=said)))).last.finish == meant


async def test_of_several_choices_the_first_is_the_answer(lab: Lab) -> None:
    assert (await ask(lab.remote("m", choices(TEXT, "另一个回答", "第三个")))).text == TEXT


async def test_server_that_does_not_stream_is_understood(lab: Lab) -> None:
    message = '{"role": "assistant", "content": "雨停了", "reasoning": "想"}'
    body = (
        f'{{"choices": [{{"index": 0, "message": {message}, "finish_reason": "stop"}}],'
        ' "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    )
    answer = await ask(lab.remote("m", Reply(body=body, content_type="application/json")))
    assert (answer.text, answer.reasoning, answer.last.finish) == ("雨停了", "想", STOP)
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 4


async def test_settings_shape_the_request(lab: Lab) -> None:
    more = {"extra_body": {"top_p": 0.5}, "stream_usage": False, "max_tokens_field": "max_completion_tokens"}
    model = lab.remote("m", chat("好"), request_tokens=100, **more)
    await ask(model, Prompt((Turn("user", "问"),), max_tokens=500, temperature=0.3))
    body = lab.upstream.seen()[0].body
    assert (body["top_p"], body["temperature"], body["max_completion_tokens"]) == (0.5, 0.3, 100)
    assert "stream_options" not in body


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("prefix", {"prefix": True}),
        ("partial", {"partial": True}),
        ("continue_final_message", {}),
    ],
)
async def test_interrupted_answer_is_marked_as_the_server_wants_it(lab: Lab, how: Any, expected: Any) -> None:
    model = lab.remote("m", chat("好"), continuation=how)
    await ask(model, Prompt((Turn("user", "续写"), Turn("assistant", "他推开门"))))
    body = lab.upstream.seen()[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "他推开门", **expected}
    assert body.get("continue_final_message", False) == (how == "continue_final_message")


async def test_rest_of_an_answer_may_be_nothing(lab: Lab) -> None:
    """A worker was lost after the last word and before the server said that it was the last."""
    model = lab.remote("m", Reply((Role(), Finish(), Done())), continuation="prefix")
    answer = await ask(model, Prompt((Turn("user", "续写"), Turn("assistant", "完了。"))))
    assert (answer.text, answer.deltas[-1].finish) == ("", STOP)
    assert len(lab.upstream.seen()) == 1


@pytest.mark.parametrize(("text", "word"), [("续写下去", "接着写"), ("Write on", "Go on")])
async def test_server_without_a_mark_is_asked_in_the_prompts_language(lab: Lab, text: str, word: str) -> None:
    await ask(lab.remote("m", chat("好")), Prompt((Turn("user", text), Turn("assistant", "1 2 3"))))
    last = lab.upstream.seen()[0].body["messages"][-1]
    assert last["role"] == "user"
    assert word in last["content"]


async def test_first_listed_model_is_asked_where_none_is_named(lab: Lab) -> None:
    lab.upstream.script("/v1/models", Reply(body='{"data": [{"id": "echo"}, {"id": "other"}]}'))
    model = lab.remote("")
    assert (await ask(model)).text == "雨停了吗？"
    assert (await ask(model)).text == "雨停了吗？"
    assert [seen.path for seen in lab.upstream.seen()].count("/v1/models") == 1
