"""A whole system of real processes for end-to-end tests: a broker, bridges and workers, gone afterwards.

    with System("services.chat", echo("rag"), bridges=2) as system:
        channel = grpc.insecure_channel(system.target)
        system.workers[0].kill()

Nothing is left behind, also when a test fails: then the ends of all logs are printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import grpc

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from qingyu_ai.settings import Settings, env_name
from qingyu_ai.settings import Worker as WorkerSettings
from tests.nats_cluster import ON_CLUSTER, AnyNats, NatsCluster, free_cluster
from tests.nats_guarded import GUARDED, GuardedNats
from tests.nats_process import NatsProcess
from tests.ports import free_port
from tests.waiting import EVERY_SECONDS

ROOT = Path(__file__).resolve().parent.parent

START_SECONDS = 60.0
"""A process imports for about a second; a machine that runs many tests at once is slower, by far when others use it too."""

DRAIN_SECONDS = 2
"""What a system's processes are given for calls that are still open; tests do not wait for a chapter to end."""

STOP_SECONDS = DRAIN_SECONDS + 10.0
"""After a drain a process still has to close what it holds."""

TAIL_LINES = 40


class SystemBroken(Exception):
    """A process did not start, ended by itself, or would not stop. The message has the ends of the logs."""


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


class Running:
    """One process. It can be ended, paused and started again; its output is one log."""

    def __init__(self, name: str, module: str, env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._module = module
        self._env = dict(env)
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._began_at = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_on_purpose = False

    def __repr__(self) -> str:
        return f"<{self.name}: {self._module}, {f'runs as {self.pid}' if self.alive else 'does not run'}>"

    def start(self) -> None:
        """Start it, also again after it has ended; `System.wait_ready` waits until it serves."""
        assert not self.alive, f"{self.name} runs already"
        self._ended_on_purpose = False
        with self._log.open("ab") as log:
            self._began_at = log.tell()
            # The folder is empty: a qingyu.yaml in the repository must not decide what the tests test.
            command = [sys.executable, "-m", self._module]
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started.pid

    @property
    def alive(self) -> bool:
        """Whether it runs; a paused process does."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has said since the system began."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def said(self, text: str) -> bool:
        """Whether it has said this since it was started last."""
        return text.encode() in self._log.read_bytes()[self._began_at :]

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)
        self._started.wait()

    def terminate(self) -> None:
        """Ask it to drain and end; `wait` waits for that."""
        self._end(signal.SIGTERM)
        self._started.send_signal(signal.SIGCONT)  # a paused process does not hear

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """Wait for its end.

        Returns:
            The exit status.

        Raises:
            SystemBroken: it has not ended in time, and is killed.
        """
        try:
            return self._started.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemBroken(f"{self.name} had not stopped after {timeout:g} s:\n{self.tail}") from None

    def pause(self) -> None:
        """Freeze it: it keeps its connections and says nothing."""
        self._started.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on as if no time had passed."""
        self._started.send_signal(signal.SIGCONT)

    @property
    def crashed(self) -> str:
        """How it ended by itself; empty: it did not."""
        if self._process is None or self.alive or self._ended_on_purpose:
            return ""
        return f"{self.name} ended by itself with status {self._process.returncode}:\n{self.tail}"

    @property
    def tail(self) -> str:
        """The end of its log, under its name."""
        lines = self.log.splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- {self.name}", *(lines or ["(said nothing)"])])

    def _end(self, by: signal.Signals) -> None:
        self._ended_on_purpose = self._ended_on_purpose or self.alive
        self._started.send_signal(by)

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process


class RunningBridge(Running):
    """A bridge process. It keeps its ports when it is started again."""

    def __init__(self, name: str, env: Mapping[str, str], folder: Path, module: str = "bridge") -> None:
        self.port, self.metrics_port = free_port(), free_port()
        ports = {"QINGYU_BRIDGE__PORT": str(self.port), "QINGYU_BRIDGE__METRICS_PORT": str(self.metrics_port)}
        super().__init__(name, module, {**env, **ports}, folder)

    @property
    def target(self) -> str:
        """Where it is called."""
        return f"127.0.0.1:{self.port}"

    @property
    def unready(self) -> str:
        """Why it is not ready; empty: it is."""
        # Without proxies: http_proxy is for the world outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=2):
                return ""
        except urllib.error.HTTPError as e:
            with e:
                return e.read().decode().strip()
        except OSError as e:
            return f"/readyz does not answer: {e}"

    def health(self, metadata: Sequence[tuple[str, str]] = ()) -> ai.HealthResponse:
        """Ask for HealthCheck.

        Args:
            metadata: with a token, of a bridge that wants one.

        Raises:
            grpc.RpcError: it does not answer.
        """
        with grpc.insecure_channel(self.target) as channel:
            stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
            return stub.HealthCheck(ai.HealthRequest(), timeout=2, metadata=tuple(metadata))


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
