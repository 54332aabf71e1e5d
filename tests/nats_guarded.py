"""A real nats-server with users and permissions, for tests and whole systems on it.

    with System("services.chat", nats=GuardedNats()) as system: ...

`TEST_NATS=guarded` (`make test-guarded`) has every system of the suite run on one. It complains about each violation at its end.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from qingyu_ai.cli import nats_server
from qingyu_ai.doors.rendering import password_variable, render
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import Settings, env_name
from tests.nats_process import NatsProcess
from tests.waiting import EVERY_SECONDS

GUARDED = os.environ.get("TEST_NATS", "") == "guarded"
"""Whether the suite's systems run on one."""

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0


class GuardedNats(NatsProcess):
    """One nats-server with the repository's configuration and users, and the process that makes its streams.

    Args:
        more: blocks of configuration behind that, such as `tls`.
        scheme: of its address.
        settings: environment variables of the processes on it.
        streams: whether somebody makes streams there.
    """

    def __init__(
        self,
        more: Sequence[str] = (),
        scheme: str = "nats",
        settings: Mapping[str, str] | None = None,
        *,
        streams: bool = True,
    ) -> None:
        self.passwords = {name: f"p{secrets.token_hex(24)}" for name in NAMES}
        variables = {password_variable(name): password for name, password in self.passwords.items()}
        super().__init__(None, variables)
        # As our flags have it: the server reloads no file that says otherwise.
        shipped = nats_server.shipped("nats.conf").read_text(encoding="utf-8").replace("http_port: 8222", "")
        self._config = Path(self._dir.name) / "guarded.conf"
        self._config.write_text("\n".join((shipped, render(Settings()), *more)), encoding="utf-8")
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.settings = {**variables, env_name(("bus", "make_streams")): "false", **(settings or {})}
        self._wanted = streams
        self._streams: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and what makes its streams, and wait until they are there."""
        super().start()
        if self._streams is not None or not self._wanted:
            return  # it has stayed, and makes again what is lost
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QINGYU_") and k != "NATS_URL"}
        env = {**inherited, **self.settings, "NATS_URL": self.url, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        log = Path(self._dir.name) / "streams.log"
        with log.open("ab") as output:
            self._streams = subprocess.Popen(
                [sys.executable, "-m", "qingyu_ai.streams", "--stay"],
                cwd=self._dir.name,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_SECONDS
        while b'"streams_made"' not in log.read_bytes():
            if self._streams.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the streams were not made:\n{log.read_text()}\n{self.said}")
            time.sleep(EVERY_SECONDS)

    @property
    def violations(self) -> list[str]:
        """What somebody tried that it may not, by the server's log."""
        return [line for line in self.said.splitlines() if "Violation" in line]

    def close(self) -> None:
        """See `NatsProcess.close`."""
        if self._streams is not None:
            self._streams.terminate()
            self._streams.wait(timeout=20)
        super().close()
