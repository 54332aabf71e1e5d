"""OpenAI-compatible chat completions: a prompt as a request body, a body or an event as deltas. No I/O.

Field names are those of the OpenAI API reference ("Chat Completions"); what others add to it: `reasoning_content` (DeepSeek,
Qwen, GLM, Moonshot, vLLM) and `reasoning` (Ollama, OpenRouter, newer vLLM) for thought, `prefix` (DeepSeek, Mistral), `partial`
(Moonshot, Qwen) and `continue_final_message` (vLLM, llama.cpp) for an answer that is to be continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .model import FILTERED, LENGTH, STOP, TOOL_CALLS, Delta, Finish, Prompt, ToolCallDelta, Turn, Usage
from .refusal import UNREADABLE

Continuation = Literal["turn", "prefix", "partial", "continue_final_message"]
"""How an endpoint is told to go on with an answer: in a turn of the user's, or by one of three marks on the answer itself."""

FINISHES: Mapping[str, Finish] = {
    "stop": STOP,
    "eos": STOP,
    "end_turn": STOP,
    "length": LENGTH,
    "max_tokens": LENGTH,
    "tool_calls": TOOL_CALLS,
    "function_call": TOOL_CALLS,
    "content_filter": FILTERED,
    "sensitive": FILTERED,  # GLM
}
"""Finish reasons as endpoints write them. One that is not here counts as `stop`: the model has ended, whatever it calls that."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class Completion(msgspec.Struct):
    """A whole answer, or one event of a stream: only the fields that are used."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(Completion)


class Unreadable(Exception):
    """It is no completion."""


def parse(data: bytes) -> Completion:
    """Read a body or an event's data.

    Raises:
        Unreadable: it is no JSON, or not of this form.
    """
    try:
        return _decoder.decode(data)
    except UNREADABLE as e:
        raise Unreadable(str(e)) from None


def delta_of(completion: Completion) -> Delta | None:
    """What the first choice says; None: nothing. Of several choices only the first is an answer to the caller."""
    for choice in completion.choices or ():
        if choice.index:
            continue
        said = choice.delta or choice.message
        finish: Finish = FINISHES.get(choice.finish_reason, STOP) if choice.finish_reason else ""
        if said is None:
            return Delta(finish=finish) if finish else None
        text = said.content or ""
        reasoning = said.reasoning_content or said.reasoning or ""
        calls = tuple(_tool_call(i, call) for i, call in enumerate(said.tool_calls)) if said.tool_calls else ()
        return Delta(text, reasoning, calls, finish) if text or reasoning or calls or finish else None
    return None


def _tool_call(position: int, call: _ToolCall) -> ToolCallDelta:
    function = call.function or _Function()
    index = position if call.index is None else call.index
    return ToolCallDelta(index, call.id or "", function.name or "", function.arguments or "")


def usage_of(completion: Completion) -> Usage | None:
    """What the endpoint counted; None: nothing, or not with this event."""
    counted = completion.usage
    if counted is None or counted.prompt_tokens is None or counted.completion_tokens is None:
        return None
    details = counted.completion_tokens_details
    thought = (details.reasoning_tokens or 0) if details else 0
    asked, said = max(0, counted.prompt_tokens), max(0, counted.completion_tokens)
    return Usage(asked, said, estimated=False, reasoning_tokens=max(0, thought))


def request_body(
    model: str,
    prompt: Prompt,
    *,
    stream: bool,
    continuation: Continuation = "turn",
    max_tokens_field: str = "max_tokens",
    stream_usage: bool = True,
    extra_body: Mapping[str, Any] | None = None,
) -> bytes:
    """Write a request.

    Args:
        model: the endpoint's own name.
        continuation: for a prompt whose last turn is an interrupted answer.
        max_tokens_field: newer OpenAI models call it `max_completion_tokens`.
        stream_usage: ask for usage in a stream; endpoints that do not know the option refuse it.
        extra_body: further fields, which win over those written here.
    """
    turns, marks = continued(prompt.turns, continuation)
    body: dict[str, Any] = {"model": model, "messages": turns, "stream": stream, **marks}
    if stream and stream_usage:
        body["stream_options"] = {"include_usage": True}
    if prompt.max_tokens:
        body[max_tokens_field] = prompt.max_tokens
    if prompt.temperature is not None:
        body["temperature"] = prompt.temperature
    if prompt.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in prompt.tools
        ]
    body.update(extra_body or {})
    return msgspec.json.encode(body)


def continued(turns: tuple[Turn, ...], how: Continuation) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write the turns, and mark the last one if it is an answer to be continued.

    Returns:
        The messages, and fields of the body beside them.
    """
    messages = [_message(turn) for turn in turns]
    if not turns or turns[-1].role != "assistant" or turns[-1].tool_calls:
        return messages, {}
    match how:
        case "prefix":
            messages[-1]["prefix"] = True
        case "partial":
            messages[-1]["partial"] = True
        case "continue_final_message":
            return messages, {"continue_final_message": True, "add_generation_prompt": False}
        case "turn":
            messages.append({"role": "user", "content": go_on(_asked_in(turns))})
    return messages, {}


def _asked_in(turns: tuple[Turn, ...]) -> str:
    """What the user said last; an answer without a question speaks for itself."""
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), turns[-1].content)


def go_on(prompt: str) -> str:
    """Ask for the rest of an answer, in the prompt's language."""
    if any("\u4e00" <= char <= "\u9fff" for char in prompt):
        return "你的上一条回答在中途断了。请从断开的那个字之后直接接着写，不要重复已经写过的内容，也不要加任何说明。"
    return (
        "Your last answer was cut off. Go on from the very character where it stops. "
        "Do not repeat what is there, and add no remark."
    )


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    return message
