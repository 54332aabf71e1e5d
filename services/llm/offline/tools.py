"""How the offline model uses tools: by a rule, so that an agent can be tried without a network.

It calls tools once, before it says anything: the first two that are offered and that it can call. It can call a tool whose
required parameters are all texts: one that is named `query` gets the task, every other one the passage. The passage is the
longest element of the last user message (`<…>…</…>`), or the whole of it without elements; the task is the last element. What it
went by it says as its thought. Then it says what came of the calls, word for word. It understands neither the tools nor their
results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.llm.model import Prompt, Tool, ToolCallDelta, Turn
from services.text.counting import count
from services.text.script import language

from .elements import elements

MOST_CALLS = 2
MOST_PASSAGE = 20_000
"""Characters of a passage: tools have limits of their own."""

MOST_QUERY = 200

SHOWN = 600
"""Characters of a result that are said."""

QUERY = "query"


@dataclass(frozen=True, slots=True)
class Choice:
    """What is called before an answer, and by which rule."""

    calls: tuple[ToolCallDelta, ...] = ()
    thought: str = ""


def choose(prompt: Prompt) -> Choice:
    """Choose the calls that come before an answer; none if there are results, or the answer has begun."""
    turns = prompt.turns
    if not prompt.tools or not turns or turns[-1].role != "user":
        return Choice()
    texts = [one.text for one in elements(turns[-1].content)] or [turns[-1].content]
    passage, task = max(texts, key=len)[:MOST_PASSAGE], texts[-1][:MOST_QUERY]
    written = ((tool.name, _arguments(tool, passage, task)) for tool in prompt.tools)
    able = [(name, arguments) for name, arguments in written if arguments][:MOST_CALLS]
    calls = tuple(
        ToolCallDelta(i, f"offline{i:02d}", name, json.dumps(arguments, ensure_ascii=False))
        for i, (name, arguments) in enumerate(able)
    )
    return Choice(calls, _thought(prompt, [name for name, _ in able], passage) if able else "")


def _thought(prompt: Prompt, names: Sequence[str], passage: str) -> str:
    spoken = language(passage) or language(prompt.turns[-1].content) or "zh"
    if spoken == "zh":
        return (
            f"离线演示的规则：这里有{len(prompt.tools)}个工具，先调用其中头{len(names)}个只要文字的："
            f"{'、'.join(names)}。给它们的是最长的那份文字，{count(passage).zi}字。"
        )
    return (
        f"Rule of the offline demonstration: of {len(prompt.tools)} tools, the first {len(names)} that take texts only are "
        f"called: {', '.join(names)}. They get the longest text, {count(passage).words} words."
    )


def without_marks(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns as they are meant: where a message is nothing but elements, their marks are not the user's words."""
    return tuple(replace(turn, content=_plain(turn.content)) if turn.role == "user" else turn for turn in turns)


def _plain(text: str) -> str:
    at, inside = 0, []
    for one in elements(text):
        if not text[at : one.start].isspace() and one.start > at:
            return text
        inside.append(one.text)
        at = one.end
    return "\n\n".join(inside) if inside and not text[at:].strip() else text


def _arguments(tool: Tool, passage: str, task: str) -> dict[str, str] | None:
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required: Sequence[str] = tool.parameters.get("required", ())
    if not required or any(properties.get(name, {}).get("type") != "string" for name in required):
        return None
    return {name: task if name == QUERY else passage for name in required}


def results_in(turns: Sequence[Turn], spoken: str) -> str:
    """What the tools of the last question returned, put into words; empty: none was called.

    Args:
        spoken: the language to say it in, `zh` or `en`.
    """
    lines = list(_lines(turns, spoken))
    if not lines:
        return ""
    if spoken == "zh":
        return f"这次调用了{len(lines)}个工具，返回的内容照录如下：\n" + "\n".join(lines)
    return f"Tools were called {len(lines)} times; what they returned, word for word:\n" + "\n".join(lines)


def _lines(turns: Sequence[Turn], spoken: str) -> Iterator[str]:
    names = {call.id: call.name for turn in turns for call in turn.tool_calls}
    start = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=0)
    for turn in turns[start:]:
        if turn.role == "tool":
            name = names.get(turn.tool_call_id, "?")
            shown = turn.content if len(turn.content) <= SHOWN else turn.content[:SHOWN] + "……"
            yield f"{name}：{shown}" if spoken == "zh" else f"{name}: {shown}"
