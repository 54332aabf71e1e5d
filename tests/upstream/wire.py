"""Turns replies into what goes over the wire: bytes that are ready to be written, and what happens between them.

All of it is made once for a reply and used for every request that gets it: in a measurement the upstream must be cheap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.upstream.script import (
    Counts,
    Cut,
    Done,
    Endless,
    Event,
    Finish,
    Pause,
    Raw,
    Reasoning,
    Reply,
    Role,
    Stall,
    Step,
    Text,
    ToolCalls,
    ToolPart,
    Usage,
)

LARGE = 64 * 1024
"""The size of a joined write."""

LAST_CHUNK = b"0\r\n\r\n"

CREATED = 1_760_000_000


@dataclass(frozen=True, slots=True)
class Loop:
    """Bytes to write again and again."""

    data: bytes
    every: float


@dataclass(frozen=True, slots=True)
class Paced:
    """Writes at a pace."""

    writes: tuple[bytes, ...]
    pace: float


Op = bytes | Loop | Paced | Pause | Cut | Stall


@dataclass(frozen=True, slots=True)
class Ready:
    """A reply that is ready to be played."""

    ops: tuple[Op, ...]
    delay: float = 0.0
    close: bool = False
    gap: float | None = None
    """Between two writes; None: no turn of the loop either."""


def dump(data: Any) -> bytes:
    """JSON as endpoints write it: compact, and in UTF-8."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def counted(counts: Counts) -> dict[str, Any]:
    """The `usage` of an answer."""
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }


def tool_part(part: ToolPart) -> dict[str, Any]:
    """A piece of a tool call, as a delta has it."""
    said: dict[str, Any] = {"index": part.index}
    function: dict[str, str] = {}
    if part.id:
        said |= {"id": part.id, "type": "function"}
    if part.name:
        function["name"] = part.name
    if part.arguments or part.name or not part.id:
        function["arguments"] = part.arguments
    return {**said, "function": function} if function else said


def _chunk(step: Step) -> dict[str, Any] | None:
    """What a step adds to the chunk that all have in common; None: it is no chunk."""

    def choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    match step:
        case Role():
            return choice(step.choice, {"role": "assistant", "content": ""})
        case Text():
            return choice(step.choice, {"content": step.text})
        case Reasoning():
            return choice(step.choice, {step.key: step.text})
        case ToolCalls():
            return choice(step.choice, {"tool_calls": [tool_part(part) for part in step.parts]})
        case Finish():
            said = choice(step.choice, {"content": step.text} if step.text else {}, step.reason)
            return {**said, "usage": counted(step.usage)} if step.usage else said
        case Usage():
            return {"choices": [], "usage": counted(step.counts)}
    return None


class _Events:
    """Writes the steps of a stream as events."""

    def __init__(self, reply: Reply, model: str, include_usage: bool) -> None:
        self._prefix, self._eol = reply.prefix.encode(), reply.eol.encode()
        self._common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": model}
        self._include_usage = include_usage

    def event(self, data: bytes) -> bytes:
        """An event with this data."""
        lines = data.split(b"\n")
        return b"".join(b"%b%b%b" % (self._prefix, line, self._eol) for line in lines) + self._eol

    def write(self, step: Step) -> bytes:
        """What a step says; empty: nothing."""
        match step:
            case Raw():
                return step.data
            case Done():
                return self.event(b"[DONE]")
            case Event():
                data = json.dumps(step.data, ensure_ascii=False, indent=2).encode() if step.lines else dump(step.data)
                return self.event(data)
            case Usage(asked=True) if not self._include_usage:
                return b""
        chunk = _chunk(step)
        return b"" if chunk is None else self.event(dump(self._common | chunk))


def stream(reply: Reply, model: str, include_usage: bool) -> Ready:
    """The reply as a stream of events."""
    events = _Events(reply, model, include_usage)
    return _ready(reply, list(_ops(reply.steps, events)), "text/event-stream; charset=utf-8", streamed=True)


def fixed(reply: Reply, body: bytes, model: str) -> Ready:
    """The reply with a body that is not made of its steps; they follow it."""
    events = _Events(reply, model, include_usage=False)
    return _ready(reply, [body, *_ops(reply.steps, events)], "application/json", streamed=bool(reply.steps))


def plain(reply: Reply, body: bytes) -> Ready:
    """The reply as one JSON body: pauses before it, a cut in its middle."""
    delay = reply.delay + sum(step.seconds for step in reply.steps if isinstance(step, Pause))
    ops: list[Op] = [body]
    for step in reply.steps:
        match step:
            case Stall():
                return Ready((step,), delay)
            case Cut():
                ops = [body[: len(body) // 2], step, body[len(body) // 2 :]]
                break
            case Endless():
                ops = [Loop(b" ", step.every)]
                break
    return _ready(reply.but(delay=delay), ops, "application/json", streamed=any(isinstance(op, Loop) for op in ops))


def _ops(steps: Iterable[Step], events: _Events) -> Iterator[Op]:
    for step in steps:
        match step:
            case Pause() | Cut() | Stall():
                yield step
            case Endless():
                yield Loop(events.write(step.what), step.every)
            case _:
                if data := events.write(step):
                    yield data


def _ready(reply: Reply, ops: list[Op], content_type: str, streamed: bool) -> Ready:
    framing = reply.framing
    if framing == "auto":
        framing = "chunked" if streamed else "length"
    own: dict[str, str] = {"content-type": reply.content_type or content_type}
    close = reply.close or framing == "close"
    match framing:
        case "chunked":
            own["transfer-encoding"] = "chunked"
            ops = [_framed(op) for op in ops]
            last = ops[-1] if ops else None
            ops = [*ops[:-1], last + LAST_CHUNK] if isinstance(last, bytes) else [*ops, LAST_CHUNK]
        case "length":
            own["content-length"] = str(sum(len(op) for op in ops if isinstance(op, bytes)))
    if close:
        own["connection"] = "close"
    head = head_of(reply.status, own | {name.lower(): value for name, value in reply.headers.items()})
    gap = reply.split_seconds if reply.split else None
    if framing == "length" and not reply.split and not reply.pace:
        reply = reply.but(joined=True)
    return Ready(tuple(_grouped(reply, head, ops)), reply.delay, close, gap)


def _framed(op: Op) -> Op:
    match op:
        case bytes():
            return b"%x\r\n%b\r\n" % (len(op), op)
        case Loop():
            return Loop(b"%x\r\n%b\r\n" % (len(op.data), op.data), op.every)
    return op


def head_of(status: int, headers: dict[str, str]) -> bytes:
    """The status line and the headers."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _grouped(reply: Reply, head: bytes, ops: list[Op]) -> Iterator[Op]:
    """The operations, with bytes that follow each other joined, split or paced as the reply says."""
    run: list[bytes] = []
    if reply.joined:
        run.append(head)
    else:
        yield head
    for op in [*ops, None]:
        if isinstance(op, bytes):
            run.append(op)
            continue
        if run and reply.pace:
            yield Paced(tuple(run), reply.pace)
        elif run:
            yield from _writes(reply, run)
        run = []
        if op is not None:
            yield op


def _writes(reply: Reply, run: list[bytes]) -> Iterator[bytes]:
    size = reply.split or (LARGE if reply.joined else 0)
    if not size:
        yield from run
        return
    data = b"".join(run)
    yield from (data[i : i + size] for i in range(0, len(data), size))
