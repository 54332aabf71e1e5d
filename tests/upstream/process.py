"""The scripted upstream as a child process of a test.

with Upstream() as up:
    up.script("novel-1", [error(429, "slow down"), chat("雨停了。")])
    client = SomeClient(base_url=up.base_url, model="novel-1")
    ...
    assert [seen.ended for seen in up.seen()] == ["complete", "complete"]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from tests.upstream.script import DOOR, SCRIPT, SEEN, Door, Reply, Seen

ROOT = Path(__file__).resolve().parent.parent.parent

CONTROL_SECONDS = 10.0


class Upstream:
    """The process, as a context manager; `stop` and `start` also serve tests of an endpoint that is away for a while.

    Args:
        port: where it listens; 0: on a free port, which it keeps when it is started again.
        cert: a certificate in a PEM file, for TLS.
        key: its key.
    """

    def __init__(self, port: int = 0, cert: Path | None = None, key: Path | None = None) -> None:
        self.port = port
        self._files = (cert, key)
        self._control = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Without proxies: http_proxy is for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"{'http' if self._files[0] is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """The address that clients of OpenAI's protocol are given."""
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it listens. It knows no scripts, and has seen nothing."""
        assert self._process is None, "it runs already"
        command = [sys.executable, "-m", "tests.upstream.server", "--port", str(self.port)]
        for option, file in zip(("--cert", "--key"), self._files, strict=True):
            command += [option, str(file)] if file is not None else []
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the upstream did not start; its error is above")
        ports = json.loads(line)
        self.port, self._control = ports["port"], ports["control"]

    def stop(self) -> None:
        """End it as a crash does: whoever is connected sees the connection close."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def script(self, model: str, replies: Sequence[Reply] | Reply) -> None:
        """Say what the next requests of a model get; the last reply is repeated.

        Args:
            model: as requests name it. A request without a model, such as `GET /v1/models`, has its path for a name.
            replies: at least one.
        """
        given = [replies] if isinstance(replies, Reply) else list(replies)
        self._call("PUT", f"/_script/{quote(model, safe='')}", SCRIPT.dump_json(given))

    def door(self, delay: float = 0.0, reset: bool = False) -> None:
        """Say what happens to new connections; without arguments: nothing."""
        self._call("PUT", "/_door", DOOR.dump_json(Door(delay, reset)))

    def seen(self) -> list[Seen]:
        """The requests that have arrived since it started or was cleared, in their order."""
        return SEEN.validate_json(self._call("GET", "/_seen"))

    def clear(self) -> None:
        """Forget the requests that were seen."""
        self._call("DELETE", "/_seen")

    def reset(self) -> None:
        """Forget all requests and all scripts, and open the door."""
        self.clear()
        self._call("DELETE", "/_script")
        self.door()

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._control}{path}", body, method=method)
        with self._opener.open(request, timeout=CONTROL_SECONDS) as answer:
            said: bytes = answer.read()
            return said

    def __enter__(self) -> Upstream:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
