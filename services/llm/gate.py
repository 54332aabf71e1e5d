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

from qingyu_ai.bus.errors import Fault

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


def guarded(
    deltas: AsyncGenerator[Delta, None], prompt: Prompt, new_gate: NewGate | None
) -> AsyncGenerator[Delta, None]:
    """Let a stream pass a gate. A stopped stream ends with the finish `content_filter`, and its model is closed.

    Args:
        deltas: of a model; closed at the end.
        prompt: what it was asked, to estimate what a stopped answer cost.
        new_gate: makes a gate for each text; None: everything passes.
    """
    return deltas if new_gate is None else _guarded(deltas, prompt, new_gate)


async def _guarded(
    deltas: AsyncGenerator[Delta, None], prompt: Prompt, new_gate: NewGate
) -> AsyncGenerator[Delta, None]:
    async with aclosing(deltas):
        text, thought = new_gate(), new_gate()
        heard: list[str] = []
        usage: Usage | None = None
        try:
            async for delta in deltas:
                heard.append(delta.text + delta.reasoning)
                usage = delta.usage
                reasoning, stopped = _through(thought, delta.reasoning, last=bool(delta.finish))
                said = ""
                if not stopped:
                    said, stopped = _through(text, delta.text, last=bool(delta.finish))
                if stopped:
                    yield Delta(said, reasoning, finish=FILTERED, usage=usage or estimated(prompt, "".join(heard)))
                    return
                passed = replace(delta, text=said, reasoning=reasoning)
                if passed.says or passed.finish:
                    yield passed
        except Fault:
            # What was held back for a word that did not come is part of the text that is kept.
            reasoning, stopped = _through(thought, "", last=True)
            said = "" if stopped else _through(text, "", last=True)[0]
            if said or reasoning:
                yield Delta(said, reasoning)
            raise


def _through(gate: Gate, text: str, *, last: bool) -> tuple[str, bool]:
    """What a gate lets through, and whether it ends the answer there."""
    passed = ""
    try:
        if text:
            passed = gate.feed(text)
        if last:
            passed += gate.close()
    except Stopped as stop:
        return passed + stop.last, True
    return passed, False
