"""What happens while an agent works, in the order in which it happens. The stream, the answer in one piece and the take-over are
made of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.llm.model import Usage

from .checking import By

Status = Literal["completed", "failed", "timeout"]

NOTHING = Usage(0, 0, estimated=False)


@dataclass(frozen=True, slots=True)
class Spent:
    """What the work has cost so far, over all workers that did it."""

    usage: Usage = NOTHING
    """Of all requests that a server has counted, also for answers that were empty."""
    retries: int = 0
    """Requests to servers beyond the first of each step, whoever made them; the rest of a long text is none."""


UNSPENT = Spent()


@dataclass(frozen=True, slots=True)
class Said:
    """More of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool that the model wants called."""

    step: int
    """Which request to the model asked for it, counted from 1."""
    id: str
    """Of the call: no two of one execution have the same."""
    name: str
    arguments: str
    """A JSON object; `{}` where the model wrote none."""
    broken: str = ""
    """What the model wrote instead of one, cut."""


@dataclass(frozen=True, slots=True)
class Started:
    """A tool is called."""

    asked: Asked
    spent: Spent


@dataclass(frozen=True, slots=True)
class Called:
    """What came of a tool call."""

    asked: Asked
    result: str
    """JSON; empty when the tool failed."""
    duration_ms: int
    code: int = 0
    message: str = ""
    """Why not, in English and Chinese."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A tool call has ended."""

    called: Called
    spent: Spent


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it all ended."""

    status: Status
    code: int
    """0 for `completed`, else a canonical status code."""
    message: str
    """In English and Chinese."""
    reason: str
    """UPPER_SNAKE_CASE, for programs; empty for `completed`."""
    spent: Spent
    tool_calls: int
    duration_ms: int
    model: str = ""
    """Which one spoke last."""
    finish: str = ""
    """Its finish reason; `cut`: it did not come to its end."""
    repaired: By = ""
    """How an answer in JSON was put right."""
    missing: tuple[str, ...] = ()
    """Tools that the request named and that nobody serves."""


Event = Said | Thought | Started | Ended | Outcome
