"""Three real nats-servers as one JetStream cluster for the tests; and whether the suite runs on one.

    cluster = NatsCluster()
    cluster.start()
    cluster.kill(cluster.leader_of("AI_LOG"))

`TEST_NATS=cluster` (`make test-cluster`) has every test that takes any broker take a cluster, and three copies of each stream.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import nats
import pytest

from qingyu_ai.cli.cluster import LOOPBACK, SERVERS, Node
from tests.nats_process import NatsProcess
from tests.ports import free_port
from tests.waiting import EVERY_SECONDS

ON_CLUSTER = os.environ.get("TEST_NATS", "") == "cluster"
"""Whether the suite runs on a cluster."""

REPLICAS: Literal[1, 3] = 3 if ON_CLUSTER else 1
"""QINGYU_BUS__REPLICAS of the suite."""

START_SECONDS = 60.0
"""Three servers look for each other and vote: two seconds on an idle machine, and up to nine for each vote that is split."""


class NatsCluster:
    """Three nats-servers with the repository's configuration, on ports and in directories of their own."""

    replicas = SERVERS

    def __init__(self) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="qingyu-nats-cluster-")
        folder = Path(self._dir.name)
        names = [f"n{i + 1}" for i in range(SERVERS)]
        self._nodes = {
            name: Node(name, LOOPBACK, free_port(), free_port(), free_port(), folder / name) for name in names
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.settings: dict[str, str] = {}
        self.lent = False
        """Whether a system runs on it now; two would see each other."""

    def __repr__(self) -> str:
        return f"<NatsCluster {self.url}: {', '.join(self.living)} of {', '.join(self._nodes)}>"

    @property
    def nodes(self) -> list[str]:
        """The names of all servers."""
        return list(self._nodes)

    @property
    def living(self) -> list[str]:
        """The names of those that run."""
        return [name for name, process in self._processes.items() if process.poll() is None]

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return bool(self._processes)

    @property
    def url(self) -> str:
        """Its addresses, comma separated."""
        return ",".join(self.servers)

    @property
    def servers(self) -> list[str]:
        """The address of each server."""
        return [node.url for node in self._nodes.values()]

    @property
    def events_url(self) -> str:
        """Where another team reads events."""
        return self.url

    def url_of(self, node: str) -> str:
        """The address of one server."""
        return self._nodes[node].url

    def pid_of(self, node: str) -> int:
        """The process id of one server."""
        return self._processes[node].pid

    def start(self) -> None:
        """Start all servers and wait until they are one cluster that answers."""
        for name in self._nodes:
            self._spawn(name)
        self._wait(lambda: "" if self.whole else "not all of them answer")

    def start_node(self, node: str) -> None:
        """Start one again, in its directory, and wait until it has all that the others have."""
        self._spawn(node)

        def missing() -> str:
            if node not in self.living:
                self._spawn(node)  # another run on this machine has tried one of its ports in the same moment
                time.sleep(0.5)
            return "" if self.whole else f"{node} is not level with the others"

        self._wait(missing)

    def kill(self, node: str) -> None:
        """End one as a crash does."""
        self._processes[node].kill()
        self._processes[node].wait()

    def restart(self, node: str) -> None:
        """End one as a crash does and start it again."""
        self.kill(node)
        self.start_node(node)

    def lame_duck(self, node: str) -> None:
        """Have one send its clients away and end, as a rolling restart does; `wait_gone` waits for that."""
        os.kill(self.pid_of(node), signal.SIGUSR2)  # nats-server --signal ldm

    def wait_gone(self, node: str, timeout: float = 60.0) -> None:
        """Wait until one has ended by itself."""
        self._processes[node].wait(timeout)

    def leader_of(self, stream: str, consumer: str = "", timeout: float = 30.0) -> str:
        """The name of the server that leads a stream, or one of its consumers, once there is one."""
        found: list[str] = []

        def missing() -> str:
            found[:] = [n for n in self.living if self._leads(n, stream, consumer)]
            return "" if len(found) == 1 else f"{stream} {consumer} has no one leader: {found}"

        self._wait(missing, timeout)
        return found[0]

    @property
    def meta_leader(self) -> str:
        """The name of the server that decides where streams are; empty: none."""
        for name in self.living:
            leader = str((self._ask(name, "jsz").get("meta_cluster") or {}).get("leader", ""))
            if leader == name:
                return leader
        return ""

    @property
    def whole(self) -> bool:
        """Whether all servers run, one leads, and each stream and consumer has a leader and nobody who lags behind."""
        if len(self.living) != SERVERS or not self.meta_leader:
            return False
        if any(self._ask(name, "healthz").get("status") != "ok" for name in self.living):
            return False
        led = [group for name in self.living for group in self._groups(name) if group["leader"] == name]
        seen = {group["raft_group"] for name in self.living for group in self._groups(name)}
        if {group["raft_group"] for group in led} != seen:
            return False
        return all(peer.get("current") and not peer.get("offline") for g in led for peer in g.get("replicas") or ())

    def wait_whole(self, timeout: float = START_SECONDS) -> None:
        """Wait for that."""
        self._wait(lambda: "" if self.whole else "it is not whole", timeout)

    def empty(self) -> None:
        """Delete all streams."""

        async def delete() -> None:
            client = await nats.connect(self.servers)
            try:
                js = client.jetstream(timeout=10)
                for info in await js.streams_info():
                    await js.delete_stream(str(info.config.name))
            finally:
                await client.close()

        # In a thread, because the test that wants it may have a loop of its own.
        thread = Thread(target=lambda: asyncio.run(delete()))
        thread.start()
        thread.join()

    def close(self) -> None:
        """End all servers and remove their directories."""
        for process in self._processes.values():
            # What they store is thrown away, and servers that leave in good order wait for each other.
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        self._dir.cleanup()

    @property
    def tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(self._log(name).read_text(errors="replace").splitlines()[-20:])
            for name in self._nodes
            if self._log(name).exists()
        )

    def _spawn(self, name: str) -> None:
        argv = self._nodes[name].argv(list(self._nodes.values()))
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)

    def _log(self, name: str) -> Path:
        return Path(self._dir.name) / f"{name}.log"

    def _wait(self, missing: Any, timeout: float = START_SECONDS) -> None:
        end = time.monotonic() + timeout
        while reason := missing():
            if time.monotonic() >= end:
                raise RuntimeError(f"after {timeout:g} s: {reason}\n{self.tails}")
            time.sleep(EVERY_SECONDS)

    def _leads(self, name: str, stream: str, consumer: str) -> bool:
        for s in self._streams(name):
            if s["name"] == stream:
                if not consumer:
                    return bool((s.get("cluster") or {}).get("leader") == name)
                details = [c for c in s.get("consumer_detail") or () if c["name"] == consumer]
                return any((c.get("cluster") or {}).get("leader") == name for c in details)
        return False

    def _groups(self, name: str) -> Iterator[dict[str, Any]]:
        """The groups of servers that one has part in: each keeps the copies of one stream or consumer."""
        for stream in self._streams(name):
            for found in (stream, *(stream.get("consumer_detail") or ())):
                group = found.get("cluster") or {}
                # A consumer with one copy is gone with its server, and made anew by whoever reads with it.
                if group.get("raft_group") and group.get("replicas"):
                    yield {"leader": "", **group}

    def _streams(self, name: str) -> list[dict[str, Any]]:
        accounts = self._ask(name, "jsz?streams=1&consumers=1&raft=1").get("account_details") or []
        return [stream for account in accounts for stream in account.get("stream_detail") or ()]

    def _ask(self, name: str, page: str) -> dict[str, Any]:
        """What one says of itself on its monitoring port; empty: nothing."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{LOOPBACK}:{self._nodes[name].monitor_port}/{page}", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError):
            return {}


AnyNats = NatsProcess | NatsCluster


@cache
def session_cluster() -> NatsCluster:
    """The cluster of this test process, for all tests that do not kill it."""
    cluster = NatsCluster()
    atexit.register(cluster.close)
    cluster.start()
    return cluster


def free_cluster() -> NatsCluster:
    """The session's cluster, or one that is still to be started if a system runs on that."""
    cluster = session_cluster()
    return NatsCluster() if cluster.lent else cluster


def of_one_server(reason: str) -> pytest.MarkDecorator:
    """Mark a test that is about a single server, and skip it where the suite runs on a cluster."""
    return pytest.mark.skipif(ON_CLUSTER, reason=f"about a single server: {reason}")
