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


class Users:
    """Passwords of all users, and a server's configuration with them.

    Args:
        more: blocks of configuration behind the users, such as `tls`.
    """

    def __init__(self, more: Sequence[str] = ()) -> None:
        self.passwords = {name: f"p{secrets.token_hex(24)}" for name in NAMES}
        self.variables = {password_variable(name): password for name, password in self.passwords.items()}
        # As our flags have it: the server reloads no file that says otherwise.
        shipped = nats_server.shipped("nats.conf").read_text(encoding="utf-8").replace("http_port: 8222", "")
        self.configuration = "\n".join((shipped, render(Settings()), *more))
        self.settings = {**self.variables, env_name(("bus", "make_streams")): "false"}


class Streams:
    """`python -m qingyu_ai.streams --stay`."""

    def __init__(self, url: str, settings: Mapping[str, str], folder: Path) -> None:
        self._log = folder / "streams.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QINGYU_") and k != "NATS_URL"}
        env = {**inherited, **settings, "NATS_URL": url, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "qingyu_ai.streams", "--stay"],
                cwd=folder,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_made(self) -> None:
        """Wait until all of them are there."""
        end = time.monotonic() + START_SECONDS
        while b'"streams_made"' not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the streams were not made:\n{self._log.read_text()}")
            time.sleep(EVERY_SECONDS)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=20)


def violations(log: str) -> list[str]:
    """What somebody tried that it may not, by a server's log."""
    return [line for line in log.splitlines() if "Violation" in line]


class GuardedNats(NatsProcess):
    """One nats-server with the repository's configuration and users, and the process that makes its streams.

    Args:
        more: see `Users`.
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
        users = Users(more)
        super().__init__(None, users.variables)
        self.passwords = users.passwords
        self._config = Path(self._dir.name) / "guarded.conf"
        self._config.write_text(users.configuration, encoding="utf-8")
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.settings = {**users.settings, **(settings or {})}
        self._wanted = streams
        self._streams: Streams | None = None

    def start(self) -> None:
        """Start it, and what makes its streams, and wait until they are there."""
        super().start()
        if self._wanted and self._streams is None:  # it stays when the server restarts, and makes again what is lost
            self._streams = Streams(self.url, self.settings, Path(self._dir.name))
            self._streams.wait_made()

    @property
    def events_url(self) -> str:
        """See `NatsProcess.events_url`; with the user of such a reader."""
        return self.url.replace("://", f"://events:{self.passwords['events']}@")

    @property
    def violations(self) -> list[str]:
        """What somebody tried that it may not, since the server was started last."""
        return violations(self.said)

    def close(self) -> None:
        """See `NatsProcess.close`."""
        if self._streams is not None:
            self._streams.close()
        super().close()
