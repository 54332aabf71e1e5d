"""Erase what a user left on the bus: waiting jobs, records and logs of calls, dead letters, sessions, events.

A record says whose it is by a hash, a session too; a job and a dead letter by the header that they came with; an event names the
user of its call. A log says nothing, and is found by the calls of the others. What a release before this one wrote does not say
it, and goes with its age.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

import nats.errors
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RawStreamMsg
from nats.js.errors import NotFoundError

from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract.events_pb2 import CallAccepted

from . import headers, subjects, topology
from .connection import NatsBus
from .owner import owner_of

JOBS = ("AI_CHAT", "AI_JOBS")

SECONDS = 5.0
"""For one request."""

EVENTS_AT_ONCE = 500


@dataclass
class Traces:
    """What there is of a user, and where."""

    jobs: list[tuple[str, int]] = field(default_factory=list)
    """Stream and sequence."""
    records: list[str] = field(default_factory=list)
    """Subjects."""
    letters: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    """One for each call of which the log holds something."""
    events: list[int] = field(default_factory=list)
    """Sequences."""

    @property
    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {name: len(getattr(self, name)) for name in ("jobs", "records", "logs", "letters", "sessions", "events")}


async def find(bus: NatsBus, user: str) -> Traces:
    """Look through all streams for what a user left. It reads every record and session that there is."""
    js, owner, traces = bus.jetstream, owner_of(user), Traces()
    calls: set[str] = set()
    for stream in JOBS:
        async for message in _messages(js, stream):
            found = message.headers or {}
            if unquote(found.get(headers.USER, "")) == user:
                traces.jobs.append((stream, message.seq or 0))
                calls.add(found.get(headers.CALL, ""))
    async for message in _messages(js, topology.CALLS):
        if bus_pb2.Record.FromString(message.data or b"").owner == owner:
            traces.records.append(message.subject or "")
            calls.add((message.subject or "").rpartition(".")[2])
    async for message in _messages(js, topology.DEAD):
        letter = bus_pb2.DeadLetter.FromString(message.data or b"")
        if unquote(letter.headers.get(headers.USER, "")) == user:
            traces.letters.append(message.subject or "")
            calls.add((message.subject or "").split(".")[3])
    async for message in _messages(js, topology.SESSIONS):
        if _session_owner(message.data or b"") == owner.hex():
            traces.sessions.append(message.subject or "")
    for call in sorted(filter(subjects.CALL_ID.fullmatch, calls)):
        if await bus.next(topology.LOG, subjects.logs_of_call(call), 1, timeout=SECONDS) is not None:
            traces.logs.append(call)
    traces.events = await _events(js, user)
    return traces


async def erase(bus: NatsBus, traces: Traces) -> None:
    """Erase what was found, the jobs first: or a worker would make the rest anew."""
    events = ((topology.EVENTS, sequence) for sequence in traces.events)
    for stream, sequence in (*traces.jobs, *events):
        try:
            await bus.jetstream.delete_msg(stream, sequence)
        except NotFoundError:
            continue  # done meanwhile, or too old
    for stream, found, name in (
        (topology.LOG, traces.logs, subjects.logs_of_call),
        (topology.DEAD, traces.letters, _as_it_is),
        (topology.CALLS, traces.records, _as_it_is),
        (topology.SESSIONS, traces.sessions, _as_it_is),
    ):
        await _drop(bus, stream, found, name)


async def _drop(bus: NatsBus, stream: str, found: list[str], name: Callable[[str], str]) -> None:
    for one in found:
        await bus.drop(stream, name(one), timeout=SECONDS)


def _as_it_is(subject: str) -> str:
    return subject


async def _messages(js: JetStreamContext, stream: str) -> AsyncIterator[RawStreamMsg]:
    """All messages of a stream, one request each: a consumer would be refused on a work queue."""
    sequence = 1
    while True:
        try:
            message = await js.get_msg(stream, seq=sequence, subject=">", next=True)
        except NotFoundError:
            return
        yield message
        sequence = (message.seq or sequence) + 1


async def _events(js: JetStreamContext, user: str) -> list[int]:
    """Where the events of a user's calls are. By a consumer: there may be a million events."""
    asked = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=2 * SECONDS)
    reader = await js.pull_subscribe("", stream=topology.EVENTS, config=asked)
    found: list[int] = []
    try:
        left = (await reader.consumer_info()).num_pending or 0
        while left > 0:
            try:
                messages = await reader.fetch(min(left, EVENTS_AT_ONCE), timeout=SECONDS)
            except nats.errors.TimeoutError:
                left = (await reader.consumer_info()).num_pending or 0  # the oldest may have gone meanwhile
                continue
            for message in messages:
                left = min(left - 1, message.metadata.num_pending)
                if _event_user(message.data) == user:
                    found.append(message.metadata.sequence.stream)
    finally:
        await reader.unsubscribe()
    return found


def _event_user(data: bytes) -> str:
    """All events that are about a call have it in one place, those of a later release too."""
    try:
        return CallAccepted.FromString(data).call.user
    except DecodeError:
        return ""


def _session_owner(data: bytes) -> str:
    try:
        session = json.loads(data)
    except ValueError:
        return ""
    return str(session.get("owner", "")) if isinstance(session, dict) else ""
