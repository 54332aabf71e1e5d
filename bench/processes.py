"""The processes that a bench measures, and what they have used."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from qingyu_ai.cli import nats_server
from qingyu_ai.cli.cluster import Node
from qingyu_ai.cli.preflight import free_ports


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, from the scheduler's own count in nanoseconds where Linux gives it."""
    total = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(psutil.Process(pid).memory_info().rss)


class Processes:
    """Starts processes by name, and ends them all."""

    def __init__(self) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="qingyu-bench-")
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
        self._dir.cleanup()

    def pid(self, name: str) -> int:
        """Process id by name."""
        return self._running[name].pid

    def start(self, name: str, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a process; what it prints goes to a file that is shown if it ends by itself."""
        log = Path(self._dir.name) / f"{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [*argv], stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, text=True
            )
        self._running[name] = process
        return process

    def stop(self, name: str) -> None:
        """End one."""
        process = self._running.pop(name)
        process.terminate()
        process.wait(timeout=15)

    def module(self, name: str, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Start a Python module of the project."""
        self.start(name, sys.executable, "-m", module, *arguments, env=env)

    def nats(self, name: str = "nats") -> str:
        """Start a nats-server with the repository's configuration.

        Returns:
            Its address.
        """
        port = free_ports(1)[0]
        config = nats_server.shipped("nats.conf")
        store = str(Path(self._dir.name) / name)
        self.start(name, str(nats_server.binary()), "-c", str(config), "-p", str(port), "-m", "0", "-sd", store)
        self.wait_for_line(name, "Server is ready")
        return f"nats://127.0.0.1:{port}"

    def cluster(self, servers: int) -> list[str]:
        """Start nats-servers as one cluster.

        Returns:
            Their addresses.
        """
        ports, routes = free_ports(servers), free_ports(servers)
        stores = Path(self._dir.name)
        wanted = [Node(f"nats-{i}", "127.0.0.1", ports[i], routes[i], 0, stores / f"nats-{i}") for i in range(servers)]
        for node in wanted:
            self.start(node.name, *node.argv(wanted))
        for node in wanted:
            self.wait_for_line(node.name, "Server is ready")
        return [node.url for node in wanted]

    @property
    def names(self) -> list[str]:
        """Of all processes that run."""
        return list(self._running)

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (Path(self._dir.name) / f"{name}.log").read_text()

    def wait_for_line(self, name: str, text: str, seconds: float = 20) -> str:
        """Wait until a process has printed a line with this text.

        Raises:
            RuntimeError: it ended, or took too long.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._running[name].poll() is None:
            for line in self.log(name).splitlines():
                if text in line:
                    return line
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not print {text!r}:\n{self.log(name)}")

    def wait_ready(self, name: str, port: int, seconds: float = 20) -> None:
        """Wait for /readyz of a process.

        Raises:
            RuntimeError: it took too long.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"{name} is not ready on port {port}:\n{self.log(name)}")
