"""What is done to a cluster under load, in doses: a test gives one kill, a longer run gives five.

with a_system() as system:
    say(str(kill_leaders(system, topology.LOG, kills=5)))
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.callers import COUNTING, LOST, Call, Caller, Chat, Stream, begun
from tests.e2e.counting_worker import BEGINS
from tests.nats_cluster import NatsCluster
from tests.running import System

STREAMS = 20
DELTAS, PER_SECOND = 60, 10
CHATTERS = 4
"""Threads that chat, one call after another."""

ENDED_SECONDS = 60.0
"""When a call that was begun before a fault is over, or hangs: its own time, a vote of up to nine seconds and a second one."""


@contextmanager
def a_system(settings: Mapping[str, str] | None = None) -> Iterator[System]:
    """Two bridges and two counting workers on a cluster of their own."""
    with System(COUNTING, COUNTING, bridges=2, nats=NatsCluster(), settings=settings) as system:
        yield system


def cluster_of(system: System) -> NatsCluster:
    """The cluster below it."""
    assert isinstance(system.nats, NatsCluster)
    return system.nats


@dataclass
class Toll:
    """What a fault cost its callers."""

    fault: str
    streams: list[Stream] = field(default_factory=list)
    chats: list[Chat] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    """Seconds of each chat."""

    @property
    def calls(self) -> list[Call]:
        """All calls."""
        return [*self.streams, *self.chats]

    @property
    def failed(self) -> list[Call]:
        """Those that did not end well."""
        return [call for call in self.calls if call.failure is not None]

    @property
    def broken(self) -> list[Call]:
        """Those with a wrong text, and streams that had begun and did not end well."""
        return [c for c in self.calls if (not c.whole if c.failure is None else bool(c.text))]

    @property
    def longest_silence(self) -> float:
        """Seconds between two chunks of a stream, at most."""
        return max((s.longest_silence for s in self.streams), default=0.0)

    def __str__(self) -> str:
        return (
            f"{self.fault}: {len(self.streams)} streams and {len(self.chats)} chats; longest silence in a stream "
            f"{self.longest_silence * 1000:.0f} ms, longest chat {max(self.took, default=0.0) * 1000:.0f} ms; "
            f"failed {len(self.failed)}, broken {len(self.broken)}"
        )


class Load:
    """Streams through both bridges that began together, and chats all the while, until the streams have ended."""

    def __init__(self, system: System, toll: Toll, deltas: int = DELTAS) -> None:
        self._callers = [Caller(bridge.target) for bridge in system.bridges]
        self._toll = toll
        self._deltas = deltas
        self._over = threading.Event()
        self._chatters = [threading.Thread(target=self._chat, args=(i,)) for i in range(CHATTERS)]

    def __enter__(self) -> Load:
        ways = itertools.cycle(self._callers)
        self._toll.streams += begun(
            next(ways).stream(deltas=self._deltas, per_second=PER_SECOND, timeout=ENDED_SECONDS) for _ in range(STREAMS)
        )
        for chatter in self._chatters:
            chatter.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for stream in self._toll.streams:
                stream.wait(ENDED_SECONDS)
        finally:
            self._over.set()
            for chatter in self._chatters:
                chatter.join()
            for caller in self._callers:
                caller.__exit__(None, None, None)

    def _chat(self, number: int) -> None:
        caller = self._callers[number % len(self._callers)]
        while not self._over.is_set():
            began = time.monotonic()
            chat = caller.chat(deltas=3, silent_seconds=0.05, timeout=ENDED_SECONDS)
            chat.wait(ENDED_SECONDS + 5)
            self._toll.chats.append(chat)
            self._toll.took.append(chat.ended_at - began)
            if chat.failure is not None:
                time.sleep(0.2)  # as its retry delay would have it, more or less


def kill_leaders(system: System, stream: str, consumer: str = "", kills: int = 1) -> list[Toll]:
    """Kill whoever leads a stream, or a consumer of it, under load, and start it again; as often as told."""
    cluster, tolls = cluster_of(system), []
    for _ in range(kills):
        cluster.wait_whole()
        toll = Toll(f"kill -9 of the leader of {stream}{consumer and f' > {consumer}'}")
        with Load(system, toll):
            node = cluster.leader_of(stream, consumer)
            cluster.kill(node)
        tolls.append(toll)
        cluster.start_node(node)
    return tolls


def lame_ducks(system: System, times: int = 1) -> list[Toll]:
    """Send a server away under load, as a rolling restart does, and start it again; as often as told, each in its turn.

    The first is the one that the first bridge is connected to, if it is connected to any: see `nats.conf` for the times.
    """
    cluster, tolls = cluster_of(system), []
    for number in range(times):
        cluster.wait_whole()
        toll = Toll("lame duck")
        node = cluster.nodes[number % len(cluster.nodes)]
        with Load(system, toll, deltas=DUCK_SECONDS * PER_SECOND):
            cluster.lame_duck(node)
            cluster.wait_gone(node)
        tolls.append(toll)
        cluster.start_node(node)
    return tolls


DUCK_SECONDS = 12
"""The grace period of `nats.conf`, and a second for each client."""


LOST_JOB = "it lost the job"
"""What a bridge says of a job that is gone with its queue."""


def never_accepted(system: System, toll: Toll) -> list[Call]:
    """The calls that failed as an overload or an outage does, and that no worker has begun: their callers may try again.

    Not those whose job the queue had taken and lost, which is what must not happen.
    """
    logs = "\n".join(worker.log for worker in system.workers).splitlines()
    started = {line.split('"request_id": "')[1].split('"')[0] for line in logs if f'"{BEGINS}"' in line}
    return [
        c
        for c in toll.failed
        if c.request_id not in started and c.failure and c.failure.code in LOST and LOST_JOB not in c.failure.details
    ]
