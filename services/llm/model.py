"""The interface of every model: a prompt goes in, a stream of deltas comes out.

A worker holds a `Model` and does not know which one: the offline model and a remote endpoint look the same to it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from qingyu_ai.bus.deadline import Deadline

Role = Literal["system", "user", "assistant", "tool"]

STOP: Final = "stop"
"""The model said all that it had to say."""

LENGTH: Final = "length"
"""The model was cut at `max_tokens`."""

TOOL_CALLS: Final = "tool_calls"
"""The model waits for the results of the tools that it called."""

FILTERED: Final = "content_filter"
"""The endpoint held back what the model would have said, or said."""

CUT: Final = "cut"
"""Never said by a model: the answer was cut by an error, and what there is of it is kept."""

Finish = Literal["", "stop", "length", "tool_calls", "content_filter", "cut"]
"""Why a stream ended; empty on every delta but the last one. The words are those of OpenAI-compatible endpoints."""


NEVER: Final = Deadline(math.inf)
"""For a caller who waits however long it takes."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it: perhaps not valid."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """A JSON schema."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """What the assistant called in this turn."""
    tool_call_id: str = ""
    """Of a `tool` turn: which call it answers."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    """Whether the numbers come from `tokens.estimate_tokens`, because no tokenizer counted."""
    reasoning_tokens: int = 0
    """The part of the completion that was thought, not said."""

    def __add__(self, other: Usage) -> Usage:
        """What two answers cost together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(slots=True)
class Requests:
    """The requests to servers that one question may cost and has cost. Whoever makes one counts it, and looks before it makes
    another: the model's client, the models that stand in for it, and who asks all of them again share one bound."""

    allowed: int
    """In all. The rest of a long answer is a question of its own, and adds one."""
    made: int = 0
    rests: int = 0
    """Made for the rest of a long answer."""
    wasted: Usage = Usage(0, 0, estimated=False)
    """What servers counted for answers that nobody got: empty ones are paid, too."""

    @property
    def left(self) -> int:
        """How many more may be made."""
        return self.allowed - self.made

    @property
    def again(self) -> int:
        """How many were made because one before them had failed, or came to nothing."""
        return max(0, self.made - 1 - self.rests)

    def rest(self) -> None:
        """One more may be made, for the rest of an answer."""
        self.allowed += 1
        self.rests += 1

    def take_wasted(self) -> Usage:
        """What was wasted since this was last asked."""
        wasted, self.wasted = self.wasted, Usage(0, 0, estimated=False)
        return wasted


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
    tools: tuple[Tool, ...] = ()
    requests: Requests | None = field(default=None, compare=False, repr=False)
    """What it may cost; None: the models' own settings decide."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: pieces with one `index` belong together, their arguments joined in order."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. The texts of a stream's deltas, joined, are the answer."""

    text: str = ""
    """May be empty on the last delta."""
    reasoning: str = ""
    """What the model thinks before it speaks, if it shows that."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish: Finish = ""
    """Set on the last delta, and only there."""
    usage: Usage | None = None
    """Set on the last delta, and only there."""
    model: str = ""
    """Which model spoke, set on the last delta: of several under one alias, any may have."""

    @property
    def says(self) -> bool:
        """Whether there is anything in it for a reader."""
        return bool(self.text or self.reasoning or self.tool_calls)


class Model(Protocol):
    """What answers prompts."""

    @property
    def name(self) -> str:
        """The name that callers ask for and that answers are labelled with."""
        ...

    def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        """Answer a prompt, delta by delta, before the deadline.

        Nothing happens before the first delta is asked for. Closing the generator, or cancelling the task that waits for
        it, stops the work and lets go of what it held; a caller that leaves early closes it (`contextlib.aclosing`),
        because an async generator is not closed for it. A stream that ends without a delta that has `finish` has failed.

        Raises:
            Fault: the model cannot answer, or no further. What was said before stays said.
        """
        ...
