"""From a request to what the model is told. Decides without I/O; tests/agent/golden pins the outcome."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qingyu_ai.bus.errors import Invalid
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.llm.model import Tool, Turn
from services.tool.registry import Listing

from .library import Agent, Limits
from .shapes import Shape
from .toolbox import Toolbox

FORMAT = "format"
"""The name in `AgentRequest.context` that asks for a form of the answer. Any other value than `json` is a text like others."""

JSON = "json"

_TAG = re.compile("<(/?(?:资料|任务))")

NO_PARAMETERS = {"type": "object", "properties": {}}

ANSWER_NOW = (
    "\n\n【提示】工具调用的次数已经用完。请只根据以上资料和工具结果，现在直接给出完整的最终回答，不要再调用工具。"
)
"""Put behind the last tool result before the last step. Not a turn of its own: a model whose context is too small would keep it,
and drop the task."""


@dataclass(frozen=True, slots=True)
class Task:
    """A request, ready to be worked on."""

    turns: tuple[Turn, ...]
    """What the model is told first."""
    tools: tuple[Listing, ...]
    """What it may call."""
    missing: tuple[str, ...]
    """Tools that the request names and nobody serves."""
    limits: Limits
    temperature: float
    reasoning: bool
    shape: type[Shape] | None
    """The form of the answer; None: text."""


def plan(agent: Agent, request: ai.AgentRequest, toolbox: Toolbox) -> Task:
    """Read a request.

    Raises:
        Invalid: it asks this agent for JSON, and it writes text only.
    """
    asked_for_json = request.context.get(FORMAT, "").strip().lower() == JSON
    if asked_for_json and agent.shape is None:
        raise Invalid((f"context[{FORMAT!r}]", f"the agent {agent.name} writes text only; leave it out"))
    names = list(dict.fromkeys(request.tools))
    listings = [(name, toolbox.find(name)) for name in names]
    tools = tuple(listing for _, listing in listings if listing is not None)
    missing = tuple(name for name, listing in listings if listing is None)
    options = request.options
    limits = agent.limits.model_copy(
        # proto3 cannot tell 0 from absent; both mean the agent's own default.
        update={
            name: value
            for name, value in (
                ("answer_tokens", options.max_tokens),
                ("seconds", options.timeout_seconds),
                ("retries", options.max_retries),
            )
            if value
        }
    )
    system = [agent.prompt]
    if hints := tool_hints(agent, tools, missing):
        system.append(hints)
    if asked_for_json:
        system.append(agent.shape_prompt)
    context = [(n, text) for n, text in sorted(request.context.items()) if n != FORMAT or not asked_for_json]
    return Task(
        turns=(Turn("system", "\n\n".join(system)), Turn("user", asked(context, request.task))),
        tools=tools,
        missing=missing,
        limits=limits,
        # A float of the contract has 32 bits: 0.7 is not 0.699999988.
        temperature=round(options.temperature, 6) if options.temperature else agent.temperature,
        reasoning=options.enable_reasoning,
        shape=agent.shape if asked_for_json else None,
    )


def tool_hints(agent: Agent, tools: Sequence[Listing], missing: Sequence[str]) -> str:
    """What the model is told of its tools, beside their schemas."""
    hints = [f"- {tool.name}：{agent.tools[tool.name]}" for tool in tools if tool.name in agent.tools]
    said = ["# 这一次的工具", *hints] if hints else []
    if missing:
        said.append(f"以下工具这一次不可用：{'、'.join(missing)}。不要调用它们，也不要假装用过。")
    return "\n".join(said)


def asked(context: Sequence[tuple[str, str]], task: str) -> str:
    """The one message of the user's: background texts in the order of their names, then the task."""
    parts = [f'<资料 名称="{_name(name)}">\n{_inside(text.strip())}\n</资料>' for name, text in context if text.strip()]
    return "\n\n".join([*parts, f"<任务>\n{_inside(task.strip())}\n</任务>"])


def _name(name: str) -> str:
    return " ".join(name.replace('"', "”").replace(">", "＞").split())


def _inside(text: str) -> str:
    """A text that can neither end the element around it nor begin another."""
    return _TAG.sub(r"＜\1", text)


def offered(tools: Sequence[Listing]) -> tuple[Tool, ...]:
    """The tools as a model sees them."""
    return tuple(Tool(t.name, t.description, t.json_schema or NO_PARAMETERS) for t in tools)


def repair(problem: str) -> str:
    """Ask for an answer in JSON again, and say what is wrong with the one before."""
    return (
        f"你的上一个回答不符合要求的 JSON 形状：{problem}。\n"
        "请改正以上问题，重新给出完整的 JSON 对象。内容没有问题的部分照原样保留，除了 JSON 什么都不要写。"
    )
