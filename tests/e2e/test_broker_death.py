"""A nats-server that dies under the whole system and comes back, as callers see it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable

import grpc
import nats
import pytest

from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract.stubs import rag_pb2_grpc
from tests.e2e.callers import (
    COUNTING,
    FAST,
    LEASE,
    LOST,
    NOTICE_SECONDS,
    Caller,
    Failure,
    all_lost,
    all_whole,
    begun,
    counting,
    ended,
    new_id,
    say,
)
from tests.nats_cluster import of_one_server
from tests.nats_process import NatsProcess
from tests.running import System, echo
from tests.waiting import EVERY_SECONDS, eventually_sync

pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("broker faults"),
    of_one_server("what is in memory goes with it; tests/e2e/test_cluster.py is the like for three"),
]

DEADLINE = 4.0
"""Of a call during the outage: long enough to tell a prompt refusal from a wait."""

STORE = 1.0
"""QINGYU_BUS__STORE_SECONDS where a test sets it."""

PROMPT = 1.5
"""Seconds. A refusal is a matter of milliseconds; the machine may be busy with restarts and other tests."""

RECOVERY_SECONDS = 20.0


def test_calls_fail_at_once_while_the_broker_is_gone_and_work_again_when_it_is_back() -> None:
    """No process is restarted, also those that were idle; streams that were open end with a status while it is away."""
    server = NatsProcess()
    with (
        System(COUNTING, echo("rag"), bridges=2, settings=FAST, nats=server) as system,
        Caller(system.target) as caller,
        Caller(system.bridges[1].target) as idle,
    ):
        pids = [process.pid for process in (*system.bridges, *system.workers)]
        for attempt in every_call(caller).values():
            attempt()
        streams = begun(caller.stream(deltas=400, per_second=20) for _ in range(10))

        killed_at = time.monotonic()
        server.kill()
        # From the first moment on, and when the bridge has forgotten its workers.
        took: dict[str, list[float]] = {}
        while time.monotonic() - killed_at < LEASE:
            time.sleep(EVERY_SECONDS)
            for name, attempt in every_call(caller).items():
                began = time.monotonic()
                failure = failure_of(attempt)
                took.setdefault(name, []).append(time.monotonic() - began)
                assert failure is not None, f"{name} worked without a broker"
                assert failure.code is grpc.StatusCode.UNAVAILABLE, f"{name}: {failure}"
                assert failure.retry_seconds is not None, f"{name}: {failure}"
        say("\n".join(f"{name}: {len(t)} refusals, at most {max(t) * 1000:.0f} ms each" for name, t in took.items()))
        assert max(itertools.chain(*took.values())) < PROMPT
        for bridge in system.bridges:
            assert bridge.unready == "no connection to NATS"
            health = bridge.health()
            assert (health.status, health.details["bus"]) == ("unhealthy", "not connected")
        all_lost(streams, since=killed_at)

        server.restart()
        back_at = time.monotonic()
        for one in (caller, idle):
            works_again(one, back_at)
        say(f"chats worked again {time.monotonic() - back_at:.2f} s after the broker had started")
        system.wait_ready(timeout=RECOVERY_SECONDS)
        for one in (caller, idle):
            for attempt in every_call(one).values():
                attempt()
            all_whole(one.stream(deltas=50, per_second=50) for _ in range(10))
        assert time.monotonic() - back_at < RECOVERY_SECONDS
        assert [process.pid for process in (*system.bridges, *system.workers)] == pids

        # Their jobs and logs were in memory; the records were not. Asked for again, by whoever has nothing of it, each is run
        # again, whole. While a worker still speaks as if nothing had happened, a caller is told to try again.
        asked = [caller.again(stream) for stream in streams]
        for _ in range(3):
            ended(asked)
            asked = [
                caller.again(one) if one.failure and one.failure.retry_seconds is not None else one for one in asked
            ]
        all_whole(asked)


def test_broker_that_restarts_at_once_makes_no_wrong_text() -> None:
    """A stream goes on where it was, or ends with a status: nothing is missing in between and nothing comes twice."""
    server = NatsProcess()
    with System(COUNTING, settings=FAST, nats=server) as system, Caller(system.target) as caller:
        streams = begun(caller.stream(deltas=120, per_second=40) for _ in range(20))
        restarted_at = time.monotonic()
        server.restart()
        ended(streams)
        whole = [stream for stream in streams if stream.whole]
        say(f"{len(whole)} of {len(streams)} streams went on")
        lost = [stream for stream in streams if stream not in whole]
        if lost:
            all_lost(lost, restarted_at, within=120 / 40 + LEASE + NOTICE_SECONDS)
        works_again(caller, restarted_at)
        all_whole(caller.stream(deltas=40, per_second=40) for _ in range(10))


def test_calls_that_waited_for_a_worker_when_the_broker_restarted_do_not_wait_for_ever() -> None:
    """The queue of chats is in memory: a job that nobody had claimed is gone, and its caller is told, or it is run."""
    settings = {**FAST, "QINGYU_CHAT__SLOTS": "11"}  # the last one is for another user
    server = NatsProcess()
    with System(COUNTING, settings=settings, nats=server) as system, Caller(system.target) as caller:
        running = begun(caller.stream(deltas=60, per_second=40) for _ in range(10))
        waiting = [caller.chat(timeout=12) for _ in range(5)] + [caller.stream(timeout=12) for _ in range(5)]
        eventually_sync(lambda: queued(server.url) == len(running) + len(waiting))
        restarted_at = time.monotonic()
        server.restart()
        ended([*running, *waiting])
        for call in waiting:
            assert call.whole or (call.failure is not None and call.failure.code in LOST), call
            assert call.ended_at - restarted_at < 2 * LEASE + NOTICE_SECONDS, call


def queued(url: str) -> int:
    """How many chat jobs there are, with those that run."""

    async def ask() -> int:
        client = await nats.connect(url)
        try:
            consumer = await client.jetstream().consumer_info("AI_CHAT", "chat")
            return (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_broker_that_hangs_ends_streams_within_the_lease_and_calls_within_their_deadline() -> None:
    """A frozen server keeps its connections, so only the clock can tell. What callers are told names nothing of ours."""
    times = {**FAST, "QINGYU_BUS__STORE_SECONDS": f"{STORE:g}"}
    server = NatsProcess()
    with System(COUNTING, settings=times, nats=server) as system, Caller(system.target) as caller:
        streams = begun(caller.stream(deltas=400, per_second=20) for _ in range(10))
        os.kill(server.pid, signal.SIGSTOP)
        frozen_at = time.monotonic()
        try:
            calls = [caller.chat(timeout=DEADLINE), caller.stream(timeout=DEADLINE)]
            # A reader asks the record before it gives up.
            all_lost(streams, since=frozen_at, within=LEASE + STORE + NOTICE_SECONDS)
            ended(calls)
            assert max(call.ended_at for call in calls) - frozen_at < DEADLINE + 0.5
        finally:
            os.kill(server.pid, signal.SIGCONT)
        thawed_at = time.monotonic()
        works_again(caller, thawed_at)
        all_whole(caller.stream(deltas=40, per_second=40) for _ in range(10))
        failures = [call.failure for call in (*streams, *calls)]
        assert {failure.code if failure else None for failure in failures} == {grpc.StatusCode.UNAVAILABLE}
        assert not [f for f in failures if f is None or "$" in f.details or "ai_calls" in f.details]


def works_again(caller: Caller, since: float) -> None:
    """Chat until it works, which it must within the seconds allowed; until then a call ends with a status, too."""
    while failure := failure_of(every_call(caller)["Chat"]):
        assert time.monotonic() - since < RECOVERY_SECONDS, failure
        time.sleep(EVERY_SECONDS)
        assert failure.code in (*LOST, grpc.StatusCode.DEADLINE_EXCEEDED), failure


def every_call(caller: Caller) -> dict[str, Callable[[], object]]:
    """One attempt at each kind of row, by name, with ids of the bridge's making and of the caller's."""
    documents = rag_pb2_grpc.RAGServiceStub(caller.channel)
    ours = counting({}, "")
    return {
        "Chat": lambda: caller.stub.Chat(ours, timeout=DEADLINE),
        "Chat with an id": lambda: caller.stub.Chat(counting({}, new_id()), timeout=DEADLINE),
        "ChatStream": lambda: list(caller.stub.ChatStream(ours, timeout=DEADLINE)),
        "ChatStream with an id": lambda: list(caller.stub.ChatStream(counting({}, new_id()), timeout=DEADLINE)),
        "Search": lambda: documents.Search(rag.SearchRequest(query="q", user_id="u"), timeout=DEADLINE),
        "IndexDocument": lambda: documents.IndexDocument(
            rag.IndexRequest(document_id="d", content="c", user_id="u"), timeout=DEADLINE
        ),
    }


def failure_of(attempt: Callable[[], object]) -> Failure | None:
    """Try; None: it went well."""
    try:
        attempt()
    except grpc.RpcError as e:
        return Failure.of(e)
    return None
