"""Replies for scripts: whole answers, answers that break off, errors.

up.script("novel-1", [error(429, "slow down", headers={"retry-after": "1"}), chat("雨停了。")])
up.script("novel-1", [opening("雨停", Cut("rst"))])
up.script("novel-1", [chat("雨停了。").but(split=1, delay=0.2)])
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from tests.upstream.script import (
    Counts,
    Done,
    Finish,
    Reasoning,
    ReasoningKey,
    Reply,
    Role,
    Step,
    Text,
    ToolCalls,
    ToolPart,
    Usage,
)

UsageIn = Literal["asked", "own", "last"]
"""Where `chat` puts the usage: in a chunk of its own if the request asks for it, in one anyway, or beside the finish."""


def pieces(text: str, size: int) -> list[str]:
    """The text in pieces of so many characters."""
    return [text[i : i + size] for i in range(0, len(text), size)]


def opening(text: str, *then: Step, size: int = 2) -> Reply:
    """A stream that begins with a text and does not end, unless `then` ends it."""
    return Reply((Role(), *map(Text, pieces(text, size)), *then))


def ending(
    finish: str | None = "stop", usage: Counts | None = None, usage_in: UsageIn = "asked", choice: int = 0
) -> tuple[Step, ...]:
    """The last steps of a stream: the finish, the usage, `[DONE]`."""
    beside = usage if usage_in == "last" else None
    own = None if usage_in == "last" else usage
    return (
        *([Finish(finish, usage=beside, choice=choice)] if finish is not None else []),
        *([Usage(own, asked=usage_in == "asked")] if own is not None else []),
        Done(),
    )


def chat(
    text: str,
    size: int = 2,
    *,
    usage: Counts | None = None,
    usage_in: UsageIn = "asked",
    finish: str | None = "stop",
    reasoning: str = "",
    reasoning_key: ReasoningKey = "reasoning_content",
) -> Reply:
    """A whole answer in deltas of `size` characters."""
    thought = [Reasoning(piece, reasoning_key) for piece in pieces(reasoning, size)]
    said = map(Text, pieces(text, size))
    return Reply((Role(), *thought, *said, *ending(finish, usage, usage_in)))


def choices(*texts: str, size: int = 2, usage: Counts | None = None) -> Reply:
    """Several answers at once, their deltas taking turns."""
    split = [pieces(text, size) for text in texts]
    turns = [Text(s[i], choice=n) for i in range(max(map(len, split))) for n, s in enumerate(split) if i < len(s)]
    finishes = [Finish(choice=n) for n in range(len(texts))]
    return Reply((*(Role(n) for n in range(len(texts))), *turns, *finishes, *ending(None, usage)))


def tool_calls(*calls: tuple[str, str, str], text: str = "", size: int = 4, usage: Counts | None = None) -> Reply:
    """An answer that calls tools.

    Args:
        calls: the id, the name and the arguments of each.
        text: what is said before.
        size: how many characters of the text or of the arguments a delta has.
        usage: sent if it is asked for.
    """
    steps: list[Step] = [Role(), *map(Text, pieces(text, size))]
    for index, (call_id, name, arguments) in enumerate(calls):
        steps.append(ToolCalls((ToolPart(index, call_id, name),)))
        steps += [ToolCalls((ToolPart(index, arguments=piece),)) for piece in pieces(arguments, size)]
    return Reply((*steps, *ending("tool_calls", usage)))


def error(
    status: int,
    message: str,
    code: str | int | None = None,
    type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error as OpenAI-compatible endpoints answer it."""
    said = {"error": {"message": message, "type": type, "param": None, "code": code}}
    return Reply(status=status, headers=dict(headers or {}), body=json.dumps(said, ensure_ascii=False))


def html(status: int, page: str = "<html><body><h1>Bad gateway</h1></body></html>") -> Reply:
    """An error page of a proxy on the way."""
    return Reply(status=status, content_type="text/html", body=page)


def bench(deltas: int, text: str = "雨停", *, pace: float = 0.0, joined: bool = False) -> Reply:
    """A stream for measurements, with the usage in its last chunk.

    Args:
        deltas: how many.
        text: what each of them says.
        pace: so many each second; 0: at once.
        joined: if at once, in a few large writes instead of one for each delta.
    """
    counts = Counts(prompt=8, completion=deltas)
    said: Sequence[Step] = [Text(text)] * deltas
    return Reply((Role(), *said, *ending("stop", counts, "last")), pace=pace, joined=joined)
