"""One request to the model: its deltas until a deadline, gathered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from qingyu_ai.bus.deadline import Deadline
from services.llm.faults import Upstream, UpstreamFault
from services.llm.gate import NewGate, guarded
from services.llm.model import Delta, Finish, Model, Prompt, Usage
from services.llm.tokens import estimate_tokens, estimated

from .calling import Pieces


class OutOfTime(Exception):
    """The execution's own time is over."""


@dataclass(slots=True)
class Heard:
    """What one request has brought so far."""

    prompt: Prompt
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    pieces: Pieces = field(default_factory=Pieces)
    finish: Finish = ""
    usage: Usage | None = None
    model: str = ""
    shown: bool = False
    """Whether the caller has seen any of it: then it may not be asked for again."""

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(self.texts)

    @property
    def cost(self) -> Usage:
        """What the server counted; an estimate where it did not come so far."""
        if self.usage is not None:
            return self.usage
        if not (self.texts or self.thoughts or self.pieces):
            return Usage(0, 0, estimated=False)  # nothing came: as far as anybody knows it cost nothing
        return estimated(self.prompt, "".join((*self.thoughts, *self.texts, self.pieces.written)))


async def hear(model: Model, heard: Heard, new_gate: NewGate | None, deadline: Deadline) -> AsyncGenerator[Delta, None]:
    """Ask, and gather the answer.

    Raises:
        OutOfTime: the deadline has come.
        Fault: the model's own.
    """
    stream = guarded(model.stream(heard.prompt, deadline), heard.prompt, new_gate)
    async with aclosing(stream):
        while True:
            delta = await _next(stream, deadline)
            if delta is None:
                break
            if delta.text:
                heard.texts.append(delta.text)
            if delta.reasoning:
                heard.thoughts.append(delta.reasoning)
            for piece in delta.tool_calls:
                heard.pieces.add(piece)
            if delta.finish:
                heard.finish, heard.usage = delta.finish, delta.usage
                heard.model = delta.model or model.name
            yield delta
    if not heard.finish:
        raise UpstreamFault(Upstream.STREAM_CUT, model.name)


async def _next(stream: AsyncGenerator[Delta, None], deadline: Deadline) -> Delta | None:
    left = deadline.remaining
    if left <= 0:  # a model that never waits is never interrupted
        raise OutOfTime
    limit = asyncio.timeout(left)
    try:
        async with limit:
            return await anext(stream, None)
    except TimeoutError:
        if limit.expired():
            raise OutOfTime from None
        raise


def prompt_tokens(prompt: Prompt) -> int:
    """Estimate what a prompt costs."""
    return sum(estimate_tokens(turn.content) for turn in prompt.turns)
