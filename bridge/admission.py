"""From bytes and metadata to an envelope, or to a fault that names each field. Decides without awaiting."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from qingyu_ai import tracing
from qingyu_ai.bus import subjects
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Denied, Invalid, TooLarge
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.routes import Route, Rpc, StreamJob
from qingyu_ai.settings import Settings
from qingyu_ai.tracing import names
from qingyu_ai.tracing.context import TRACEPARENT, parent_of

from .doors import NOBODY, Visitor
from .rules import RULES, check_id, check_request_id

REQUEST_ID_KEY = "x-request-id"
RESUME_KEY = "x-resume-from"
"""Metadata of a stream that is read again: how much of it the caller has (see `resume`)."""

LINGER_KEY = "x-linger-ms"
"""Metadata of a job: for how long it goes on when its caller is lost, so that the caller may come back."""

FOLLOW_KEY = "x-follow"
"""Metadata of a stream: `true` reads a call that there is and makes none. Its request says whose it is, and nothing else: what
was asked for is known where the call is. So whoever lost the request with the process that sent it can read on."""

NEEDS_USER: frozenset[type[Message]] = frozenset(
    (ai.AgentRequest, rag.SearchRequest, rag.IndexRequest, rag.DeleteRequest)
)
"""Requests that always belong to a user. A chat does when it names a session; a tool may be called by nobody."""

Metadata = Iterable[tuple[str, str | bytes]]


class Admitted(NamedTuple):
    """A request that holds."""

    message: Message
    envelope: Envelope
    chosen: bool
    """The caller chose the request id."""
    resume_from: int | None
    """What the caller has of the stream already; None: it does not resume."""
    linger_seconds: float = 0.0
    """How long the call goes on without its caller."""
    follows: bool = False
    """The call must be there already; the message says no more than whose it is."""


class Incoming(NamedTuple):
    """What metadata says of a call."""

    request_id: str
    """As given; empty: not given."""
    traceparent: str
    resume_from: str = ""
    """As given; empty: not given."""
    linger: str = ""
    """As given; empty: not given."""
    follow: str = ""
    """As given; empty: not given."""

    @classmethod
    def of(cls, metadata: Sequence[tuple[str, str | bytes]] | None) -> Incoming:
        """Pick what this edge knows; everything else stays outside."""
        request_id = traceparent = resume_from = linger = follow = ""
        for key, value in metadata or ():
            if key == REQUEST_ID_KEY and isinstance(value, str):
                request_id = value
            elif key == TRACEPARENT and isinstance(value, str):
                traceparent = parent_of(value)
            elif key == RESUME_KEY and isinstance(value, str):
                resume_from = value
            elif key == LINGER_KEY and isinstance(value, str):
                linger = value
            elif key == FOLLOW_KEY and isinstance(value, str):
                follow = value
        return cls(request_id, traceparent, resume_from, linger, follow)


MOST_DIGITS = 9
"""Of a number in metadata."""


def new_request_id() -> str:
    """Make an id for a call that came without one: `req_<unix nanoseconds>_<8 hexadecimal digits>`."""
    return f"req_{time.time_ns()}_{secrets.token_hex(4)}"


def admit(
    route: Route[Any, Any],
    body: bytes,
    incoming: Incoming,
    remaining: float | None,
    settings: Settings,
    *,
    visitor: Visitor = NOBODY,
    item_id: str = "",
) -> Admitted:
    """Decode, check, identify.

    Args:
        route: the row.
        body: the request as it came.
        incoming: from the call's metadata.
        remaining: seconds until the caller's gRPC deadline; None: it has none.
        settings: limits.
        visitor: who calls, as far as that was verified.
        item_id: of one request in a stream of them, made from the stream's own id.

    Raises:
        TooLarge: the body is over the limit.
        Invalid: it does not decode, or breaks rules; each violation names its field.
        NotFound: it names a tool that cannot exist.
        Denied: it names another user than the caller, or a project that is closed to it.
    """
    if len(body) > settings.bridge.max_message_bytes:
        raise TooLarge("The request", "请求", len(body), settings.bridge.max_message_bytes)
    try:
        message = route.request.FromString(body)
    except DecodeError:
        raise Invalid(
            ("request", f"is no {route.request.DESCRIPTOR.full_name} (broken encoding or invalid UTF-8)")
        ) from None
    violations: list[tuple[str, str]] = []
    follows = bool(incoming.follow) and _follows(route, incoming.follow, violations)
    if not incoming.follow:
        violations += RULES[route.request](message)
    user, project, request_id = _identity(route, message, incoming, visitor, violations)
    if follows and not request_id:
        violations.append((FOLLOW_KEY, f"needs the call's {REQUEST_ID_KEY}"))
    resume_from = _resume_from(route, incoming.resume_from, request_id, violations)
    linger = _linger(incoming.linger, settings.bridge.longest_linger_seconds, violations) if incoming.linger else 0.0
    if violations:
        raise Invalid(*violations)
    bus = settings.bus
    seconds = bus.default_deadline_seconds if remaining is None else min(remaining, bus.longest_deadline_seconds)
    request_id = request_id or item_id
    chosen = bool(request_id)
    request_id = request_id or new_request_id()
    if isinstance(route, Rpc):
        # An rpc keeps no record, so its call id need not be found again: a random one cannot be another caller's.
        call, digest = secrets.token_hex(16), ""
    else:
        call, digest = subjects.call_id(user, route.method, request_id), _digest(message)
    envelope = Envelope(
        call=call,
        request_id=request_id,
        deadline=Deadline.after(seconds),
        user=user,
        project=project,
        roles=visitor.roles,
        digest=digest,
        traceparent=tracing.onward(incoming.traceparent),
        verified=visitor.verified and bool(user),
        projects=visitor.projects,
    )
    tracing.current().set(names.CALL, call)
    return Admitted(message, envelope, chosen, resume_from, linger, follows)


def request_id_of(route: Route[Any, Any], body: object, incoming: Incoming) -> str:
    """The id to answer a refused request with: the caller's if it can be made out, else a new one."""
    if incoming.request_id and not check_request_id("", incoming.request_id):
        return incoming.request_id
    if isinstance(body, bytes) and _known(route.request.DESCRIPTOR).metadata:
        with contextlib.suppress(DecodeError):
            named: str = route.request.FromString(body).metadata.request_id
            if named and not check_request_id("", named):
                return named
    return new_request_id()


def _resume_from(route: Route[Any, Any], given: str, request_id: str, violations: list[tuple[str, str]]) -> int | None:
    if not given:
        return None
    if not isinstance(route, StreamJob):
        violations.append((RESUME_KEY, "is for streams"))
    elif not (given.isascii() and given.isdecimal() and len(given) <= MOST_DIGITS):
        violations.append((RESUME_KEY, f"must be a whole number from 0 to {10**MOST_DIGITS - 1}"))
    elif not request_id:
        violations.append((RESUME_KEY, f"needs the call's {REQUEST_ID_KEY}"))
    else:
        return int(given)
    return None


def _follows(route: Route[Any, Any], given: str, violations: list[tuple[str, str]]) -> bool:
    if not isinstance(route, StreamJob):
        violations.append((FOLLOW_KEY, "is for streams"))
    elif given != "true":
        violations.append((FOLLOW_KEY, "must be one of true"))
    else:
        return True
    return False


def _linger(given: str, longest: float, violations: list[tuple[str, str]]) -> float:
    if not (given.isascii() and given.isdecimal() and len(given) <= MOST_DIGITS):
        violations.append((LINGER_KEY, f"must be a whole number of milliseconds, at most {10**MOST_DIGITS - 1}"))
        return 0.0
    return min(int(given) / 1000, longest)


def _identity(
    route: Route[Any, Any], message: Any, incoming: Incoming, visitor: Visitor, violations: list[tuple[str, str]]
) -> tuple[str, str, str]:
    """User, project and request id, from the body, its metadata and the call's metadata.

    Raises:
        Denied: not as this visitor.
    """
    known = _known(route.request.DESCRIPTOR)
    user = message.user_id if known.user else ""
    project = message.project_id if known.project else ""
    request_id = incoming.request_id
    if request_id:
        violations += check_request_id(REQUEST_ID_KEY, request_id)
    if known.metadata and message.HasField("metadata"):
        meta = message.metadata
        if user and meta.user_id and user != meta.user_id:
            violations.append(("metadata.user_id", "differs from user_id"))
        if not visitor.may_be(meta.user_id) or not visitor.may_use(meta.project_id):
            raise Denied
        user = user or meta.user_id
        project = project or meta.project_id
        if meta.request_id:
            if request_id and request_id != meta.request_id:
                violations.append(("metadata.request_id", f"differs from {REQUEST_ID_KEY} in the call's metadata"))
            violations += check_request_id("metadata.request_id", meta.request_id)
            request_id = request_id or meta.request_id
    if not visitor.may_be(user) or not visitor.may_use(project):
        raise Denied
    user = visitor.user or user
    violations += check_id("user_id", user)
    violations += check_id("project_id", project)
    if not user and (route.request in NEEDS_USER or (route.request is ai.ChatRequest and message.session_id)):
        violations.append(("user_id", "is required"))
    return user, project, request_id


@dataclass(frozen=True, slots=True)
class _Known:
    """Which of the fields that say who calls a request type has."""

    user: bool
    project: bool
    metadata: bool
    """`common.Metadata`; a document's metadata is another thing."""


@functools.cache
def _known(message: Descriptor) -> _Known:
    fields = message.fields_by_name
    metadata = fields.get("metadata")
    return _Known(
        user="user_id" in fields,
        project="project_id" in fields,
        metadata=metadata is not None and metadata.message_type is common.Metadata.DESCRIPTOR,
    )


def _digest(message: Any) -> str:
    """Digest of a request without its metadata, whose timestamp differs on a retry. The message is ours to change."""
    if _known(message.DESCRIPTOR).metadata:
        message.ClearField("metadata")
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).hexdigest()
