"""A real nats-server for the tests: its own port, its own directory, gone afterwards."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from qingyu_ai.cli import nats_server
from tests.ports import free_port


class NatsProcess:
    """One nats-server with the repository's configuration."""

    replicas = 1

    def __init__(self, config: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._config = config or nats_server.shipped("nats.conf")
        self._env = {**os.environ, **(env or {})}
        self.settings: dict[str, str] = {}
        """Environment variables that processes on it need."""
        self._dir = tempfile.TemporaryDirectory(prefix="qingyu-nats-")
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(self._dir.name) / "nats.log"

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = ["-c", str(self._config), "-a", "127.0.0.1", "-p", str(self.port), "-m", "0", "-sd", self._dir.name]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(nats_server.binary()), *arguments], stdout=log, stderr=subprocess.STDOUT, env=self._env
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if b"Server is ready" in self._log.read_bytes():
                return
            time.sleep(0.02)
        raise RuntimeError(f"nats-server did not start:\n{self._log.read_text()}")

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """End it and start it again on the same port and directory; streams in memory are lost."""
        self.kill()
        self._log.unlink()
        self.start()

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return self._process is not None and self._process.poll() is None

    @property
    def said(self) -> str:
        """Its log since it was started last."""
        return self._log.read_text(errors="replace")

    @property
    def servers(self) -> list[str]:
        """Its address."""
        return [self.url]

    @property
    def events_url(self) -> str:
        """Where another team reads events."""
        return self.url

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        """End it and remove its directory."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=20)
        self._dir.cleanup()
