"""Every subject of the bus, in one place. No text of a caller is ever part of one.

The variable tokens are a call id (32 hexadecimal digits), a bridge or worker token (ours), one of the five agent types,
or a tool's name, which must match `TOOL_NAME`.
"""

from __future__ import annotations

import functools
import hashlib
import re

RPC = "ai.rpc"
"""`ai.rpc.<kind>.…`: core request/reply over queue groups."""

JOB = "ai.job"
"""`ai.job.<kind>.…`: work queues."""

STREAM = "ai.stream"
"""`ai.stream.<kind>.<bridge>.<call>`: the log of a call."""

CANCEL = "ai.cancel"
"""`ai.cancel.<call>`: the record of this call has been decided against the worker; all workers listen."""

CREDIT = "ai.credit"
"""`ai.credit.<worker>`: how far the worker may go on with its streams."""

HELD = "ai.held"
"""`ai.held.<call>`: does anybody read this call? All bridges listen; only those that do answer."""

OPEN = "ai.open"
"""`ai.open.<bridge>`: when the oldest open call of a bridge began; all bridges listen."""

DEAD = "ai.dead"
"""`ai.dead.<kind>.<call>.<reopened>`: jobs that were put aside."""

LEFT = "ai.left"
"""`ai.left.<worker>`: a worker stops in good order; all bridges listen."""

EVENTS = "ai.events.v1"
"""`ai.events.v1.<kind>.<event>.<project>`: what happens, for other services (docs/events.md)."""

NO_PROJECT = "none"
INBOX = "_INBOX"
"""`_INBOX.<role>.<process>.…`: replies and acks of one process; only its role hears them."""

TOOL_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
"""What a tool may be called, so that its name can be a subject token."""

CALL_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""The form of a call id."""


def call_id(user: str, method: str, request_id: str) -> str:
    """Name a call: a hash over length-prefixed fields, so that no user can name another user's call.

    Returns:
        32 hexadecimal digits.
    """
    named = f"{len(user)}:{user}{len(method)}:{method}{len(request_id)}:{request_id}"
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def log(kind: str, bridge: str, call: str) -> str:
    """The log of a call, where its worker publishes frames."""
    return f"{STREAM}.{kind}.{bridge}.{call}"


def logs_of_bridge(bridge: str) -> str:
    """The filter of a bridge's one ordered consumer."""
    return f"{STREAM}.*.{bridge}.>"


def logs_of_call(call: str) -> str:
    """The filter that finds a call's log, whichever bridge it was made for."""
    return f"{STREAM}.*.*.{call}"


def is_log(subject: str, kind: str, call: str) -> bool:
    """Whether a subject that a request carries is the log of this call, and nothing else."""
    parts = subject.split(".")
    return len(parts) == 5 and parts[:3] == [*STREAM.split("."), kind] and parts[3].isalnum() and parts[4] == call


def inbox_of(role: str) -> str:
    """The beginning of every inbox of a role."""
    return f"{INBOX}.{role}."


def cancel(call: str) -> str:
    """Where a decided call is announced to its worker."""
    return f"{CANCEL}.{call}"


def held(call: str) -> str:
    """Where a bridge asks whether another one reads a call."""
    return f"{HELD}.{call}"


def dead(kind: str, call: str, reopened: int) -> str:
    """The dead letter of a call: one for the call as it was first asked, and one for each time that it was reopened."""
    return f"{DEAD}.{kind}.{call}.{reopened}"


def left(worker: str) -> str:
    """Where a worker says that it stops."""
    return f"{LEFT}.{worker}"


@functools.lru_cache(maxsize=4096)
def project_token(project: str) -> str:
    """A project in a subject of events. SHA-256, which every language has, so that other teams can make it too.

    Returns:
        `none`, or the first 32 hexadecimal digits of the hash of the project id.
    """
    return hashlib.sha256(project.encode()).hexdigest()[:32] if project else NO_PROJECT


def event(kind: str, name: str, project: str) -> str:
    """Where an event is published.

    Args:
        project: the token of one, see `project_token`.
    """
    return f"{EVENTS}.{kind}.{name}.{project}"


def credit(worker: str) -> str:
    """Where a worker hears credit."""
    return f"{CREDIT}.{worker}"
