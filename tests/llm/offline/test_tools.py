"""The offline model's rule for tools."""

from __future__ import annotations

import json
import time
from typing import Any

from services.llm.model import STOP, TOOL_CALLS, Delta, Prompt, Tool, ToolCall, Turn
from services.llm.offline.chinese import LABEL
from services.llm.offline.model import OfflineModel
from services.llm.offline.tools import choose
from services.text.counting import count

from .samples import NIGHT_RAIN

ASKED = f'<资料 名称="前文">\n{NIGHT_RAIN}\n</资料>\n\n<任务>\n续写\n</任务>'


def tool(name: str, required: tuple[str, ...] = ("text",), kind: str = "string") -> Tool:
    properties: dict[str, Any] = {field: {"type": kind} for field in required}
    return Tool(name, name, {"type": "object", "properties": properties, "required": list(required)})


async def ask(prompt: Prompt) -> list[Delta]:
    return [delta async for delta in OfflineModel(0, 0).stream(prompt)]


def calls(deltas: list[Delta]) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for delta in deltas for call in delta.tool_calls]


async def test_it_calls_the_first_two_tools_that_it_can_with_the_passage_and_the_task() -> None:
    tools = (tool("calculate", kind="number"), tool("a"), tool("search", ("query",)), tool("c"), tool("now", ()))
    deltas = await ask(Prompt((Turn("user", ASKED),), tools=tools))
    assert calls(deltas) == [("a", {"text": NIGHT_RAIN.strip()}), ("search", {"query": "续写"})]
    assert deltas[-1].finish == TOOL_CALLS
    assert deltas[-1].usage is not None
    assert not any(delta.text for delta in deltas)


async def test_it_says_by_which_rule_it_chose_before_it_calls() -> None:
    deltas = await ask(Prompt((Turn("user", ASKED),), tools=(tool("a"), tool("calculate", kind="number"), tool("b"))))
    thought = "".join(delta.reasoning for delta in deltas)
    assert "这里有3个工具，先调用其中头2个只要文字的：a、b。" in thought
    assert f"{count(NIGHT_RAIN).zi}字" in thought
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.completion_tokens > usage.reasoning_tokens > 0
    english = await ask(Prompt((Turn("user", "Three words here."),), tools=(tool("a"),)))
    assert "".join(delta.reasoning for delta in english).endswith("called: a. They get the longest text, 3 words.")


async def test_without_elements_the_passage_is_the_message() -> None:
    deltas = await ask(Prompt((Turn("user", "夜雨。"),), tools=(tool("a"),)))
    assert calls(deltas) == [("a", {"text": "夜雨。"})]


async def test_with_results_it_answers_and_says_what_they_are() -> None:
    called = (ToolCall("x1", "a", "{}"),)
    turns = (Turn("user", ASKED), Turn("assistant", "", called), Turn("tool", '{"zi": 42}', tool_call_id="x1"))
    deltas = await ask(Prompt(turns, tools=(tool("a"),)))
    text = "".join(delta.text for delta in deltas)
    assert text.startswith(LABEL)
    assert text.endswith('这次调用了1个工具，返回的内容照录如下：\na：{"zi": 42}')
    assert deltas[-1].finish == STOP
    begun = Prompt((*turns, Turn("assistant", text[:50])), tools=(tool("a"),))
    assert text[:50] + "".join(delta.text for delta in await ask(begun)) == text


async def test_the_marks_of_elements_are_not_counted() -> None:
    marked = "".join(delta.text for delta in await ask(Prompt((Turn("user", ASKED),))))
    plain = "".join(delta.text for delta in await ask(Prompt((Turn("user", f"{NIGHT_RAIN.strip()}\n\n续写"),))))
    assert marked == plain


async def test_elements_among_words_are_words() -> None:
    told = "".join(delta.text for delta in await ask(Prompt((Turn("user", "他说<b>走</b>，就走了。"),))))
    assert "<b>走</b>" in told


async def test_elements_without_end_cost_nothing() -> None:
    began = time.thread_time()
    choose(Prompt((Turn("user", "<a>" * 1_000_000),), tools=(tool("a"),)))
    assert time.thread_time() - began < 2


async def test_without_tools_it_calls_none() -> None:
    assert calls(await ask(Prompt((Turn("user", ASKED),)))) == []


async def test_in_english_it_says_so_in_english() -> None:
    called = (ToolCall("x1", "a", "{}"),)
    turns = (Turn("user", "Count."), Turn("assistant", "", called), Turn("tool", "3", tool_call_id="x1"))
    text = "".join(delta.text for delta in await ask(Prompt(turns)))
    assert text.endswith("Tools were called 1 times; what they returned, word for word:\na: 3")
