"""One request to the model: its deltas until a deadline, gathered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from qingyu_ai.bus.deadline import Deadline
from services.llm.faults import Upstream, UpstreamFault
from services.llm.gate import NewGate, guarded
from services.llm.model import Delta, Finish, Model, Prompt, Turn, Usage
from services.llm.tokens import estimate_tokens, estimated

from .calling import Pieces

LONGEST_TIMER = 24 * 3600.0
"""Seconds: an event loop takes no endless ones."""


class OutOfTime(Exception):
    """The execution's own time is over."""


@dataclass(slots=True)
class Heard:
    """What one request has brought so far."""

    prompt: Prompt
    pieces: Pieces
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
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
    limit = Limit(deadline)
    try:
        async with aclosing(stream):
            while (delta := await limit.next(stream)) is not None:
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
    finally:
        limit.close()
    if not heard.finish:
        raise UpstreamFault(Upstream.STREAM_CUT, model.name)


class Limit:
    """A deadline for many waits, with one timer: `asyncio.timeout` around each delta costs as much as all the rest of the loop.

    Nothing but `next` is interrupted: between two of them the deadline is only noted. It is for the task that makes it: to ask at
    each delta which task this is costs more than all else here.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._waiting = False
        self._cancelling = 0
        self._interrupted = self._over = False
        left = min(max(0.0, deadline.remaining), LONGEST_TIMER)
        self._timer = asyncio.get_running_loop().call_later(left, self._on_time)

    def close(self) -> None:
        """No more waits."""
        self._timer.cancel()

    def _on_time(self) -> None:
        self._over = True  # a timer may be early by less than a millisecond
        if self._waiting and self._task is not None:
            self._interrupted = True
            self._task.cancel()

    async def next(self, stream: AsyncGenerator[Delta, None]) -> Delta | None:
        """Wait for a delta; None: there are no more.

        Raises:
            OutOfTime: the deadline has come.
        """
        if self._over or self._deadline.passed:  # a model that never waits is never interrupted
            raise OutOfTime
        task = self._task
        assert task is not None
        self._cancelling = task.cancelling()
        self._waiting = True
        try:
            return await anext(stream, None)
        except asyncio.CancelledError:
            if self._interrupted and task.uncancel() <= self._cancelling:
                raise OutOfTime from None
            raise
        finally:
            self._waiting = False


def turn_tokens(turns: Iterable[Turn]) -> int:
    """Estimate what it costs to tell a model these turns."""
    return sum(estimate_tokens(turn.content) for turn in turns)
