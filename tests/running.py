"""A whole system of real processes for end-to-end tests: a broker, bridges and workers, gone afterwards.

    with System("services.chat", echo("rag"), bridges=2) as system:
        channel = grpc.insecure_channel(system.target)
        system.workers[0].kill()

Nothing is left behind, also when a test fails: then the ends of all logs are printed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import grpc

from qingyu_ai.settings import Settings, env_name
from qingyu_ai.settings import Worker as WorkerSettings
from tests.nats_cluster import ON_CLUSTER, AnyNats, NatsCluster, free_cluster
from tests.nats_guarded import GUARDED, GuardedNats
from tests.nats_process import NatsProcess
from tests.process import DRAIN_SECONDS, Running, RunningBridge, SystemBroken
from tests.waiting import EVERY_SECONDS

ROOT = Path(__file__).resolve().parent.parent

START_SECONDS = 60.0
"""A process imports for about a second; a machine that runs many tests at once is slower, by far when others use it too."""


@dataclass(frozen=True)
class Worker:
    """A kind of worker process to run."""

    module: str
    kind: str
    env: Mapping[str, str] = field(default_factory=dict)


def worker(module: str) -> Worker:
    """The worker of a module that is called like its kind: `services.chat`."""
    return Worker(module, module.rpartition(".")[2])


def echo(kind: str = "chat") -> Worker:
    """The worker that echoes, as a chat or as a rag worker."""
    return Worker("bench.echo_worker", kind, {"ECHO_KIND": kind})


def _settings_of(kind: str) -> dict[str, str]:
    """What every worker of a kind gets that has settings of its own."""
    described = Settings.model_fields.get(kind)
    if described is None or not isinstance(described.default, WorkerSettings):
        return {}
    return {
        env_name((kind, "metrics_port")): "0",  # none: replicas would ask for the same
        env_name((kind, "drain_seconds")): str(DRAIN_SECONDS),
    }


def _free_nats() -> AnyNats:
    if ON_CLUSTER:
        return free_cluster()
    return GuardedNats() if GUARDED else NatsProcess()


class System:
    """A broker, bridges and workers, as a context manager.

    Leaving it complains about processes that ended by themselves or would not stop, and, if the test has failed, prints the
    ends of all logs.

    Args:
        workers: one process for each; a module's name, or a `Worker`.
        bridges: how many.
        expected_workers: the kinds without which HealthCheck says `unhealthy`; None: those of `workers`.
        settings: more environment variables for all processes, by their full names.
        nats: the broker; one that runs already is emptied first, and runs on afterwards. None: that of the suite.
        bridge_module: what the bridges run.
        health_metadata: with a token, for bridges that want one.
    """

    def __init__(
        self,
        *workers: str | Worker,
        bridges: int = 1,
        expected_workers: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
        nats: AnyNats | None = None,
        bridge_module: str = "bridge",
        health_metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._health_metadata = health_metadata
        self._bridge_module = bridge_module
        self._first_workers = [worker(w) if isinstance(w, str) else w for w in workers]
        self._first_bridges = bridges
        kinds = [w.kind for w in self._first_workers] if expected_workers is None else expected_workers
        self._settings = {"QINGYU_BRIDGE__EXPECTED_WORKERS": json.dumps(sorted(set(kinds))), **(settings or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="qingyu-system-")
        self._kinds: dict[Running, str] = {}
        self.nats: AnyNats = nats or _free_nats()
        self._nats_is_ours = not self.nats.running
        self.bridges: list[RunningBridge] = []

    def __repr__(self) -> str:
        return f"<System on {self.nats.url}: {self.bridges + self.workers}>"

    @property
    def workers(self) -> list[Running]:
        """All worker processes, in the order in which they were added."""
        return list(self._kinds)

    @property
    def target(self) -> str:
        """The address of the first bridge."""
        return self.bridges[0].target

    @property
    def env(self) -> dict[str, str]:
        """What every process gets, and nothing that a developer has set for the system at hand."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("QINGYU_", "OTEL_")) and k != "NATS_URL"}
        own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NATS_URL": self.nats.url}
        own |= self.nats.settings
        own[env_name(("bus", "replicas"))] = str(self.nats.replicas)
        own[env_name(("bridge", "drain_seconds"))] = str(DRAIN_SECONDS)
        # Only for the kinds that there are: a process of the release before knows no others.
        for kind in {one.kind for one in self._first_workers} | set(self._kinds.values()):
            own |= _settings_of(kind)
        return {**inherited, **own, **self._settings}

    def add_worker(self, one: str | Worker) -> Running:
        """Start one more worker process."""
        one = worker(one) if isinstance(one, str) else one
        name = f"{one.kind}-{sum(kind == one.kind for kind in self._kinds.values()) + 1}"
        process = Running(name, one.module, {**_settings_of(one.kind), **self.env, **one.env}, Path(self._folder.name))
        self._kinds[process] = one.kind
        process.start()
        return process

    def add_bridge(self) -> RunningBridge:
        """Start one more bridge process, on its own port."""
        name = f"bridge-{len(self.bridges) + 1}"
        process = RunningBridge(name, self.env, Path(self._folder.name), self._bridge_module)
        self.bridges.append(process)
        process.start()
        return process

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until every bridge that runs is ready and sees every worker that runs, and no other.

        Raises:
            SystemBroken: a process ended by itself, or the time is over.
        """
        end = time.monotonic() + timeout
        while reason := self._unready():
            if crashed := self._crashed():
                raise SystemBroken("\n".join(crashed))
            if time.monotonic() >= end:
                raise SystemBroken(f"not ready within {timeout:g} s: {reason}\n{self.tails}")
            time.sleep(EVERY_SECONDS)

    def _unready(self) -> str:
        for process in (p for p in self.workers if p.alive):
            if not process.said('"worker_started"'):
                return f"{process.name} has not started"
        wanted = Counter(kind for process, kind in self._kinds.items() if process.alive)
        bridges = [bridge for bridge in self.bridges if bridge.alive]
        for bridge in bridges:
            if reason := bridge.unready:
                return f"{bridge.name}: {reason}"
            try:
                details = bridge.health(self._health_metadata).details
            except grpc.RpcError as e:
                return f"{bridge.name}: HealthCheck: {e}"
            for kind in {*self._kinds.values()}:
                seen = details.get(f"worker.{kind}", "none running")
                if seen != (f"{wanted[kind]} running" if wanted[kind] else "none running"):
                    return f"{bridge.name} sees of {wanted[kind]} {kind} workers: {seen}"
        return ", ".join(self._crashed())

    def _crashed(self) -> list[str]:
        return [p.crashed for p in (*self.bridges, *self.workers) if p.crashed]

    @property
    def tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(p.tail for p in (*self.bridges, *self.workers))

    def __enter__(self) -> System:
        try:
            if self._nats_is_ours:
                self.nats.start()
            elif isinstance(self.nats, NatsCluster):
                self.nats.lent = True
                self.nats.empty()
            for _ in range(self._first_bridges):
                self.add_bridge()
            for one in self._first_workers:
                self.add_worker(one)
            self.wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stdout.write(f"{self.tails}\n")
        complaints = self._stop()
        if complaints and error is None:
            raise SystemBroken("\n".join(complaints))

    def _stop(self) -> list[str]:
        """Stop everything, callers' side first, so that calls can still be answered; the broker last."""
        complaints = self._crashed()
        try:
            for group in (self.bridges, self.workers):
                running = [process for process in group if process.alive]
                for process in running:
                    process.terminate()
                for process in running:
                    try:
                        process.wait()
                    except SystemBroken as e:
                        complaints.append(str(e))
        finally:
            # Also when a timeout of the test ends the waiting above.
            for process in (*self.bridges, *self.workers):
                if process.alive:
                    process.kill()
            if isinstance(self.nats, GuardedNats):
                complaints += self.nats.violations
            if self._nats_is_ours:
                self.nats.close()
            elif isinstance(self.nats, NatsCluster):
                self.nats.lent = False
            self._folder.cleanup()
        return complaints
