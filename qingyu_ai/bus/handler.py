"""What a handler sees of the call it serves, and how it is registered."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from google.protobuf.message import Message

from qingyu_ai.routes import Route, StreamJob

from .chunks import Shape, shape_of
from .deadline import Deadline
from .discovery import Counts
from .errors import Internal
from .headers import Envelope

log = structlog.get_logger(__name__)


async def _nowhere(part: Any) -> None:
    """Where a row without notes puts them."""


def _unheard(*_: Any) -> None:
    """Where what happens is told to nobody."""


async def _at_once() -> None:
    """A row that says nothing has nothing to wait for."""


class Submission(NamedTuple):
    """When a job was stored, as an order: of two, the larger was stored later, whichever runs first.

    A call that is tried again is stored again. A queue that was lost and made anew counts from 1, and is younger.
    """

    queue: int = 0
    """When the queue was made, unix nanoseconds."""
    sequence: int = 0
    """Of the message in the queue."""

    @classmethod
    def of(cls, generation: str, sequence: int) -> Submission:
        """Make it of a queue's generation (RFC 3339 with nanoseconds, UTC; empty: not known) and a message's sequence there."""
        if not generation:
            return cls(0, sequence)
        head, _, fraction = generation.rstrip("Z").partition(".")
        seconds = int(datetime.fromisoformat(head + "+00:00").timestamp())
        return cls(seconds * 10**9 + int(fraction.ljust(9, "0")[:9]), sequence)


@dataclass(slots=True)
class Call:
    """What a handler knows of the call it serves, and what it may leave for after the answer."""

    id: str
    request_id: str
    user: str
    project: str
    roles: tuple[str, ...]
    deadline: Deadline
    traceparent: str
    verified: bool = False
    """Whether the edge has verified the user."""
    projects: tuple[str, ...] | None = None
    """The only ones of the user's that the caller may use; None: all."""
    proof: str = ""
    """Of a call of a tool: who called it has signed that it is this user's."""
    submitted: Submission = field(default_factory=Submission)
    """Of a job: its place among all that were stored. What replaces a thing by name lets the larger one win."""
    epoch: int = 0
    """Of the claim; 0: none."""
    trailers: dict[str, str] = field(default_factory=dict)
    """Trailing metadata for the caller."""
    said: tuple[Any, ...] = ()
    """What a worker before this one had said of the stream, or noted of the answer: the handler goes on after it."""
    follow_up: bytes = b""
    """For the row's follow-up, which runs after the commit, perhaps more than once and perhaps on another worker."""
    note: Callable[[Any], Awaitable[None]] = _nowhere
    """Of a unary row that was registered with `notes`: log a part of the answer, for a worker that takes over."""
    flush: Callable[[], Awaitable[None]] = _at_once
    """Wait until all that was said or noted is stored: before something is done that must not be done again by a worker that
    finds nothing of it. Raises BusDown."""
    on_tool: Callable[[str, float, int], None] = _unheard
    """To be told of each tool that was called: its name, the seconds it took, its status code."""
    on_first_token: Callable[[], None] = _unheard
    """Told by the bus when the first text is said."""

    @classmethod
    def of(cls, envelope: Envelope) -> Call:
        """What the envelope of a request says."""
        return cls(
            envelope.call,
            envelope.request_id,
            envelope.user,
            envelope.project,
            envelope.roles,
            envelope.deadline,
            envelope.traceparent,
            envelope.verified,
            envelope.projects,
            envelope.proof,
        )


FollowUp = Callable[[str, bytes, int], Awaitable[None]]
"""(call id, what the handler left, order). Idempotent under the call id. A call that was reopened is decided again: what it
leaves then has a higher order, and takes the place of what it left before, whichever comes first."""


@dataclass(slots=True)
class Served:
    """A row and who serves it."""

    route: Route[Any, Any]
    handler: Callable[[Call, Any], Any]
    counts: Counts
    follow_up: FollowUp | None = None
    continues: bool = False
    """Whether the handler heeds `Call.said`. One that does not cannot take over what was begun aloud."""

    notes: type[Message] | None = None
    """Of a unary row: what its handler notes while it works."""

    @property
    def parts(self) -> type[Message] | None:
        """What the call's log is made of: stream messages or notes; None: it has an end only."""
        return self.route.reply if isinstance(self.route, StreamJob) else self.notes

    @property
    def shape(self) -> Shape | None:
        """Of these parts."""
        return shape_of(self.parts) if self.parts else None


def internal(event: str, **facts: object) -> Internal:
    """Log the exception being handled, once, and give the error that the caller sees in its place."""
    error_id = secrets.token_hex(6)
    log.exception(event, error_id=error_id, **facts)
    return Internal(error_id)
