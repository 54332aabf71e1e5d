"""A real PostgreSQL for the tests, as `up` starts it: its own port, its own directory, gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from qingyu_ai.cli import postgres
from qingyu_ai.cli.nats_server import NotInstalled
from tests.ports import free_port

HOST = "127.0.0.1"

PORTS = 5
"""That are tried: other runs of the tests on this machine choose theirs in the same way."""


class PostgresProcess:
    """One server."""

    def __init__(self) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="qingyu-postgres-")
        self.folder = Path(self._dir.name) / "postgres"
        self.port = free_port()
        self._programs = programs_folder()
        self._log = Path(self._dir.name) / "postgres.log"
        self._started = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it lets clients in; the first time at another port, if somebody else was faster."""
        for _ in range(PORTS):
            if self._begin():
                return
            if self._started or "Address already in use" not in self._log.read_text():
                break
            self.port = free_port()
        raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def _begin(self) -> bool:
        program = postgres.server(self._programs, self.folder, HOST, self.port)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(program.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._ready:
                self._started = True
                return True
            time.sleep(0.02)
        return False

    @property
    def _ready(self) -> bool:
        """Whether this server itself says that it lets clients in; whoever answers at the port may be another run's.

        Source: PostgreSQL's src/include/utils/pidfile.h: the first line is the process's id, the eighth its status.
        """
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def password(self, role: str) -> str:
        """Of `postgres` or `worker`."""
        return (self.folder / f"{role}.password").read_text()

    def dsn(self, database: str, role: str = "postgres", user: str = "postgres") -> str:
        """The address of a database, for one of the two roles."""
        return f"postgresql://{user}:{self.password(role)}@{HOST}:{self.port}/{database}"

    @property
    def settings(self) -> dict[str, str]:
        """By which a retrieval worker uses and prepares it, as `up` gives them."""
        return {"QINGYU_DATA_DIR": str(self.folder.parent), "QINGYU_RAG__PORT": str(self.port)}

    @property
    def pid(self) -> int:
        """Of the server; its backends are its children."""
        assert self._process is not None
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it and wait until it has ended.

        Returns:
            Its exit status.
        """
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=60)

    def crash(self) -> None:
        """End it as a crash of the machine does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and remove its directory."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        self._dir.cleanup()


def programs_folder() -> Path:
    """Where PostgreSQL's programs are; without them skip the test, or fail it under CI=true."""
    try:
        return postgres.programs_folder()
    except NotInstalled as e:
        if os.environ.get("CI") == "true":
            pytest.fail(str(e))
        pytest.skip(str(e))
