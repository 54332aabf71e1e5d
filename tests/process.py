"""One process of a system under test: started, ended, paused and started again, with all that it said in one log."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.ports import free_port

DRAIN_SECONDS = 2
"""What a system's processes are given for calls that are still open; tests do not wait for a chapter to end."""

STOP_SECONDS = DRAIN_SECONDS + 10.0
"""After a drain a process still has to close what it holds."""

TAIL_LINES = 40


class SystemBroken(Exception):
    """A process did not start, ended by itself, or would not stop. The message has the ends of the logs."""


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
