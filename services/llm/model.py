"""The interface of every model: a prompt goes in, a stream of deltas comes out.

A worker holds a `Model` and does not know which one: the offline model and a remote endpoint look the same to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Role = Literal["system", "user", "assistant"]

STOP: Final = "stop"
"""The model said all that it had to say."""

LENGTH: Final = "length"
"""The model was cut at `max_tokens`."""

Finish = Literal["", "stop", "length"]
"""Why a stream ended; empty on every delta but the last one. The words are those of OpenAI-compatible endpoints."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that a model is told for one answer."""

    turns: tuple[Turn, ...]
    """In the order in which they were said. If the last one is the assistant's, it is an answer that was interrupted: the
    model goes on where it stops, and does not repeat it."""
    max_tokens: int = 0
    """The most tokens that the answer may have; 0: the model's default."""
    temperature: float | None = None
    """How freely the model chooses its words, from 0; None: the model's default."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    """Whether the numbers come from `tokens.estimate_tokens`, because no tokenizer counted."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. The texts of a stream's deltas, joined, are the answer."""

    text: str = ""
    """May be empty on the last delta. Never ends inside a character that a reader sees as one."""
    finish: Finish = ""
    """Set on the last delta, and only there."""
    usage: Usage | None = None
    """Set on the last delta, and only there."""


class Model(Protocol):
    """What answers prompts."""

    @property
    def name(self) -> str:
        """The name that callers ask for and that answers are labelled with."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Answer a prompt, delta by delta.

        Nothing happens before the first delta is asked for. Closing the generator, or cancelling the task that waits for
        it, stops the work and lets go of what it held; a caller that leaves early closes it (`contextlib.aclosing`),
        because an async generator is not closed for it. A stream that ends without a delta that has `finish` has failed.
        """
        ...
