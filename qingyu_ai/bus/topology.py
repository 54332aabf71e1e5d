"""The streams and buckets that the bus needs, as data, and their making.

| name | holds | where |
|---|---|---|
| AI_CHAT | chat jobs | memory: they survive a worker or a bridge, not a power cut |
| AI_JOBS | all other jobs | file |
| AI_LOG | frames of calls | memory |
| KV_ai_calls | the record of each call | file |
| KV_ai_sessions | chat sessions | file |
| KV_ai_tools | which tools there are, as long as their workers say so | memory |
| AI_DEAD | jobs that were put aside | file |
| AI_EVENTS | what happened, for other services | file |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, BadRequestError, NotFoundError

from qingyu_ai.settings import Bus as BusSettings

from . import subjects
from .transport import Queue
from .transport_errors import Disconnected, StoreRefused, Unfit

T = TypeVar("T")

NO_CLUSTER = 10074
"""The error of a single server that is asked for copies."""

PASSING = (10005, 10126)
"""Errors that pass: too few servers for the copies, of which one may be just starting again; and more copies of a consumer than
of its stream, which is getting them."""

UNAVAILABLE = 503
"""The status of further errors that pass: no leader yet."""

ANSWER_SECONDS = 1.5
"""For one request. JetStream answers within milliseconds, or not at all."""

AGAIN_SECONDS = 0.1

PATIENCE_SECONDS = 25.0
"""For all of it: a vote among servers takes up to nine seconds, and may have to be held again."""

LOG = "AI_LOG"
CALLS = "KV_ai_calls"
SESSIONS = "KV_ai_sessions"
TOOLS = "KV_ai_tools"
DEAD = "AI_DEAD"
EVENTS = "AI_EVENTS"

QUEUES: dict[str, Queue] = {
    "chat": Queue("AI_CHAT", "chat", f"{subjects.JOB}.chat.>"),
    "agent": Queue("AI_JOBS", "agent", f"{subjects.JOB}.agent.>"),
    "rag": Queue("AI_JOBS", "rag", f"{subjects.JOB}.rag.>"),
}
"""The work queue of each kind of worker that takes jobs. Consumers of one stream must not overlap."""


WATCHED = ("AI_CHAT", "AI_JOBS", LOG, CALLS, SESSIONS, TOOLS, DEAD, EVENTS)
"""The streams that a bridge looks at once a second: how full they are, and whether they are still the same."""

NEEDED: dict[str, tuple[str, ...]] = {
    "bridge": WATCHED,
    "chat": ("AI_CHAT", LOG, CALLS, SESSIONS),
    "agent": ("AI_JOBS", LOG, CALLS, TOOLS),
    "rag": ("AI_JOBS", LOG, CALLS),
    "tool": (TOOLS,),
    "mcp": (TOOLS,),
}
"""The streams without which a process of a kind is of no use."""


def call_key(call: str) -> str:
    """The subject of a call's record."""
    return f"$KV.ai_calls.{call}"


def session_key(session: str) -> str:
    """The subject of a session."""
    return f"$KV.ai_sessions.{session}"


def tool_key(tool: str, worker: str) -> str:
    """The subject on which a worker says that it has a tool."""
    return f"$KV.ai_tools.{tool}.{worker}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A stream as it should be."""

    name: str
    subject: str
    memory: bool = False
    work_queue: bool = False
    key_value: bool = False
    evict: bool = False
    """When full: drop the oldest message; otherwise refuse the new one."""
    age_seconds: float = 0
    bytes: int = -1
    batches: bool = False
    """Several messages may be stored at once, with one acknowledgement."""

    def config(self, replicas: int) -> StreamConfig:
        """As JetStream takes it."""
        return StreamConfig(
            name=self.name,
            subjects=[self.subject],
            storage=StorageType.MEMORY if self.memory else StorageType.FILE,
            retention=RetentionPolicy.WORK_QUEUE if self.work_queue else RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD if self.evict else DiscardPolicy.NEW,
            max_age=self.age_seconds,
            max_bytes=self.bytes,
            max_msgs_per_subject=1 if self.key_value else -1,
            num_replicas=replicas,
            allow_direct=True,
            allow_rollup_hdrs=self.key_value,
            deny_delete=self.key_value,
            allow_atomic=self.batches or None,
        )


def plans(bus: BusSettings) -> list[Plan]:
    """All streams of a deployment."""
    waiting = bus.longest_deadline_seconds + bus.lease_seconds
    return [
        Plan(
            "AI_CHAT",
            f"{subjects.JOB}.chat.>",
            memory=True,
            work_queue=True,
            age_seconds=waiting,
            bytes=bus.queue_bytes,
        ),
        # Batch indexing may wait long behind a stopped worker; its jobs carry their own expiry.
        Plan(
            "AI_JOBS",
            f"{subjects.JOB}.>",
            work_queue=True,
            age_seconds=bus.record_age_seconds,
            bytes=bus.queue_bytes,
        ),
        # The log drops what is oldest, which is what finished calls said; `gauge.log_has_room` refuses new calls before the
        # head of an open one would go.
        Plan(
            LOG, f"{subjects.STREAM}.>", memory=True, evict=True, age_seconds=bus.log_age_seconds, bytes=bus.log_bytes
        ),
        Plan(CALLS, call_key(">"), key_value=True, age_seconds=bus.record_age_seconds, bytes=bus.record_bytes),
        Plan(SESSIONS, session_key(">"), key_value=True, age_seconds=bus.session_age_seconds, bytes=bus.session_bytes),
        Plan(
            TOOLS,
            "$KV.ai_tools.>",
            memory=True,
            key_value=True,
            age_seconds=bus.tool_lease_seconds,
            bytes=bus.tool_bytes,
        ),
        Plan(DEAD, f"{subjects.DEAD}.>", age_seconds=bus.dead_letter_age_seconds, bytes=bus.dead_letter_bytes),
        # Whoever subscribes must not be able to stop calls: it drops what is oldest, heard or not.
        Plan(
            EVENTS,
            f"{subjects.EVENTS}.>",
            evict=True,
            age_seconds=bus.events_age_seconds,
            bytes=bus.events_bytes,
            batches=True,
        ),
    ]


def job_subjects(plan: Plan) -> list[str]:
    """The subjects of a stream: AI_JOBS takes every kind but chat, which has a queue of its own."""
    if plan.name != "AI_JOBS":
        return [plan.subject]
    return [queue.subject for queue in QUEUES.values() if queue.stream == plan.name]


async def ensure(js: JetStreamContext, bus: BusSettings) -> None:
    """Make what is missing and bring the rest up to the settings. Safe to run from many processes at once.

    A cluster leaves a request unanswered when another process asks for the same stream at the same moment, and when the
    stream's servers have not voted yet. So nobody waits long for an answer: the next look shows what has become of it.

    Raises:
        Unfit: the settings want copies, and the server is a single one.
        StoreRefused: the server makes no such streams now; its text says why.
        Disconnected: it does not answer.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await _make_all(js, bus)
            return
        except APIError as e:
            if e.err_code == NO_CLUSTER:
                raise Unfit(
                    f"QINGYU_BUS__REPLICAS is {bus.replicas}, and the NATS server is no cluster: "
                    "set it to 1, or NATS_URL to a cluster"
                ) from None
            if (e.code != UNAVAILABLE and e.err_code not in PASSING) or time.monotonic() > give_up:
                raise StoreRefused("streams of the bus", e.err_code or 503, e.description or "no JetStream now") from e
        except (nats.errors.Error, TimeoutError) as e:
            if time.monotonic() > give_up:
                raise Disconnected(f"NATS did not make the streams of the bus: {str(e) or type(e).__name__}") from e
        await asyncio.sleep(AGAIN_SECONDS)


async def wait_for(js: JetStreamContext, streams: Iterable[str]) -> None:
    """Wait until somebody else has made these streams.

    Raises:
        StoreRefused: one of them is still missing after `PATIENCE_SECONDS`.
        Disconnected: the server does not answer.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    for stream in streams:
        while True:
            try:
                await _answered(js.stream_info(stream))
                break
            except NotFoundError:
                if time.monotonic() > give_up:
                    raise StoreRefused(
                        stream, 404, "not there, and QINGYU_BUS__MAKE_STREAMS is off: run `python -m qingyu_ai.streams`"
                    ) from None
            except (nats.errors.Error, TimeoutError) as e:
                if time.monotonic() > give_up:
                    raise Disconnected(f"NATS does not answer for {stream}: {str(e) or type(e).__name__}") from e
            await asyncio.sleep(AGAIN_SECONDS)


async def _make_all(js: JetStreamContext, bus: BusSettings) -> None:
    for plan in plans(bus):
        config = replace(plan.config(bus.replicas), subjects=job_subjects(plan))
        try:
            found = (await _answered(js.stream_info(plan.name))).config
        except NotFoundError:
            await _make(js, config)
            continue
        if (found.max_age, found.max_bytes, found.num_replicas, sorted(found.subjects or [])) != (
            config.max_age,
            config.max_bytes,
            config.num_replicas,
            sorted(config.subjects or []),
        ):
            await _answered(js.update_stream(config))
    for queue in QUEUES.values():
        consumer = ConsumerConfig(
            durable_name=queue.consumer,
            filter_subject=queue.subject,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=bus.ack_wait_seconds,
            max_deliver=-1,  # the broker's own limit would leave a poison message in the queue for ever
            max_ack_pending=20_000,
            num_replicas=bus.replicas,  # said, because one that follows its stream does not get more copies with it
        )
        await _answered(js.add_consumer(queue.stream, consumer))


async def _make(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await _answered(js.add_stream(config))
    except BadRequestError as e:
        # Another process made it between our look and our call.
        if e.err_code != 10058:
            raise


async def _answered(asked: Awaitable[T]) -> T:
    async with asyncio.timeout(ANSWER_SECONDS):
        return await asked
