"""The streams on a cluster: made by many processes at once, given more copies, looked for while servers vote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from tests.bus.conftest import FAST
from tests.nats_cluster import NatsCluster
from tests.waiting import eventually

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("cluster")]

PROCESSES = 8
ONE, THREE = (FAST.model_copy(update={"replicas": copies}) for copies in (1, 3))


@pytest.fixture(scope="module")
def cluster() -> Iterator[NatsCluster]:
    cluster = NatsCluster()
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture
async def buses(cluster: NatsCluster) -> AsyncIterator[list[NatsBus]]:
    """As many connections as a system has processes, to a cluster without streams."""
    await asyncio.to_thread(cluster.empty)
    opened = [await NatsBus.open(cluster.servers, "test", on_closed=lambda: None) for _ in range(PROCESSES)]
    yield opened
    for bus in opened:
        await bus.close()


async def copies(bus: NatsBus) -> dict[str, int]:
    """How many servers have each stream, as far as they are level with its leader."""
    found = {}
    for plan in topology.plans(THREE):
        info = await bus.jetstream.stream_info(plan.name)
        peers = (info.cluster and info.cluster.replicas) or ()
        found[plan.name] = 1 + sum(bool(peer.current) for peer in peers)
    return found


async def all_have_three(bus: NatsBus) -> bool:
    return set((await copies(bus)).values()) == {3}


async def test_many_processes_that_start_at_once_make_the_streams_together(buses: list[NatsBus]) -> None:
    """A cluster leaves some of their requests without an answer; none of the processes fails for that."""
    began = time.monotonic()
    await asyncio.gather(*(bus.ensure_topology(THREE) for bus in buses))
    assert time.monotonic() - began < topology.PATIENCE_SECONDS / 2
    await eventually(lambda: all_have_three(buses[0]))
    for queue in topology.QUEUES.values():
        assert (await buses[0].jetstream.consumer_info(queue.stream, queue.consumer)).name == queue.consumer


async def test_streams_with_one_copy_get_three_and_keep_what_they_hold(buses: list[NatsBus]) -> None:
    await buses[0].ensure_topology(ONE)
    key = topology.call_key("0" * 32)
    revision = await buses[0].store(key, b"run", expect=0, timeout=5)
    await buses[0].store("ai.job.chat.complete", b"job", timeout=5)
    assert set((await copies(buses[0])).values()) == {1}

    await asyncio.gather(*(bus.ensure_topology(THREE) for bus in buses))
    await eventually(lambda: all_have_three(buses[0]), timeout=30)
    stored = await buses[0].last(topology.CALLS, key, timeout=5)
    assert stored is not None
    assert (stored.sequence, stored.data) == (revision, b"run")
    assert await buses[0].store(key, b"done", expect=revision, timeout=5) > revision
    queue = await buses[0].jetstream.consumer_info("AI_CHAT", "chat")
    assert queue.num_pending == 1
    assert len((queue.cluster and queue.cluster.replicas) or ()) == 2


async def test_process_that_starts_while_servers_vote_waits_for_them(
    cluster: NatsCluster, buses: list[NatsBus]
) -> None:
    await buses[0].ensure_topology(THREE)
    await asyncio.to_thread(cluster.wait_whole)
    dead = await asyncio.to_thread(cluster.leader_of, topology.LOG)
    cluster.kill(dead)
    living = next(name for name in cluster.nodes if name != dead)
    late = await NatsBus.open([cluster.url_of(living)], "late", on_closed=lambda: None)
    try:
        await late.ensure_topology(THREE)
        # A consumer may still be without a leader, but the stream takes what is said.
        await eventually(lambda: stores(late), timeout=20)
    finally:
        await late.close()
        await asyncio.to_thread(cluster.start_node, dead)


async def test_backlog_is_the_leaders_whichever_server_is_asked(cluster: NatsCluster, buses: list[NatsBus]) -> None:
    """Right after a job is acknowledged by its queue, while copies of the queue may not have heard of it yet."""
    await asyncio.gather(*(bus.ensure_topology(THREE) for bus in buses))
    await asyncio.to_thread(cluster.wait_whole)
    queue = topology.QUEUES["chat"]
    asking = [await NatsBus.open([server], "asking", on_closed=lambda: None) for server in cluster.servers]
    try:
        for count in range(1, 21):
            await buses[0].store("ai.job.chat.complete", b"job", timeout=5)
            found = await asyncio.gather(*(bus.backlog(queue) for bus in asking))
            assert [backlog.waiting for backlog in found] == [count] * len(asking)
    finally:
        for bus in asking:
            await bus.close()


async def stores(bus: NatsBus) -> bool:
    try:
        return await bus.store("ai.stream.chat.b.c", b"frame", timeout=1) > 0
    except Exception:
        return False
