"""The place where text passes between a model and the frames that are published: here a check may hold it back, replace it or
stop it, before anything is said.

    async with aclosing(guarded(model.stream(prompt), prompt, new_gate)) as deltas: ...

Thought passes a gate of its own of the same kind: readers see it too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from .model import FILTERED, Delta, Prompt, Usage
from .tokens import estimated


class Gate(Protocol):
    """Checks one text that comes in pieces. An instance is for one text."""

    def feed(self, text: str) -> str:
        """Take a piece.

        Returns:
            What may be said now: this piece, less, more, or something else.

        Raises:
            Stopped: the text must end here.
        """
        ...

    def close(self) -> str:
        """The text has ended.

        Returns:
            What was held back and may be said.

        Raises:
            Stopped: it may not.
        """
        ...


NewGate = Callable[[], Gate]


class Stopped(Exception):
    """A gate ends an answer. What it let through before stays said; `last` may still be said."""

    def __init__(self, last: str = "") -> None:
        super().__init__("the answer was stopped by a check")
        self.last = last


async def guarded(
    deltas: AsyncGenerator[Delta, None], prompt: Prompt, new_gate: NewGate | None
) -> AsyncGenerator[Delta, None]:
    """Let a stream pass a gate. A stopped stream ends with the finish `content_filter`, and its model is closed.

    Args:
        deltas: of a model; closed at the end.
        prompt: what it was asked, to estimate what a stopped answer cost.
        new_gate: makes a gate for each text; None: everything passes.
    """
    async with aclosing(deltas):
        if new_gate is None:
            async for delta in deltas:
                yield delta
            return
        text, thought = new_gate(), new_gate()
        heard: list[str] = []
        usage: Usage | None = None
        try:
            async for delta in deltas:
                heard.append(delta.text + delta.reasoning)
                usage = delta.usage
                said = replace(
                    delta,
                    text=text.feed(delta.text) if delta.text else "",
                    reasoning=thought.feed(delta.reasoning) if delta.reasoning else "",
                )
                if delta.finish:
                    yield replace(said, text=said.text + text.close(), reasoning=said.reasoning + thought.close())
                    return
                if said.says:
                    yield said
        except Stopped as stop:
            yield Delta(stop.last, finish=FILTERED, usage=usage or estimated(prompt, "".join(heard)))
