"""What a handler sees of the call it serves, and how it is registered."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from qingyu_ai.routes import Route, StreamJob

from .chunks import Shape, shape_of
from .deadline import Deadline
from .discovery import Counts
from .errors import Internal
from .headers import Envelope

log = structlog.get_logger(__name__)


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
    trailers: dict[str, str] = field(default_factory=dict)
    """Trailing metadata for the caller."""
    said: tuple[Any, ...] = ()
    """Stream messages of this call that a worker before this one had said: the handler goes on after them."""
    follow_up: bytes = b""
    """For the row's follow-up, which runs after the commit, perhaps more than once and perhaps on another worker."""

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
        )


FollowUp = Callable[[str, bytes], Awaitable[None]]
"""(call id, what the handler left). Idempotent under the call id."""


@dataclass(slots=True)
class Served:
    """A row and who serves it."""

    route: Route[Any, Any]
    handler: Callable[[Call, Any], Any]
    counts: Counts
    follow_up: FollowUp | None = None
    continues: bool = False
    """Whether the handler heeds `Call.said`. One that does not cannot take over what was begun aloud."""

    @property
    def shape(self) -> Shape | None:
        """Of the row's stream messages; None for a unary row."""
        return shape_of(self.route.reply) if isinstance(self.route, StreamJob) else None


def internal(event: str, **facts: object) -> Internal:
    """Log the exception being handled, once, and give the error that the caller sees in its place."""
    error_id = secrets.token_hex(6)
    log.exception(event, error_id=error_id, **facts)
    return Internal(error_id)
