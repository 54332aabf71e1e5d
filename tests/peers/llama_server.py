"""llama.cpp's own server as a child process of a test."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.ports import free_port
from tests.waiting import eventually_sync

START_SECONDS = 30.0

KEY = "sk-peer-0123456789abcdef"


class LlamaServer:
    """The process, as a context manager.

    Args:
        command: the program, with arguments that come before ours.
        model: a GGUF file.
        directory: where the log goes.
        context: tokens.
        more: further arguments.
    """

    def __init__(self, command: list[str], model: Path, directory: Path, context: int, *more: str) -> None:
        self.port = free_port()
        self._command = [
            *(*command, "--model", str(model), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--ctx-size", str(context), "--parallel", "1", "--api-key", KEY, "--metrics", *more),
        ]
        self._log = directory / f"llama-server-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        # Without proxies: http_proxy is for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def base_url(self) -> str:
        """The address that clients of OpenAI's protocol are given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def metric(self, name: str) -> float:
        """A number that it counts."""
        found = re.search(rf"^llamacpp:{name} (\S+)$", self._get("/metrics"), re.MULTILINE)
        assert found, f"it does not count {name}"
        return float(found[1])

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text(errors="replace")

    @property
    def begun(self) -> int:
        """How many requests it has begun to work for."""
        return self.log.count("| processing task")

    @property
    def ended(self) -> list[int]:
        """How many tokens, of prompt and answer, each of them had when it ended, or was stopped."""
        return [int(count) for count in re.findall(r"stop processing: n_tokens = (\d+)", self.log)]

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _get(self, path: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {KEY}"}
        )
        with self._opener.open(request, timeout=10) as answer:
            said: bytes = answer.read()
            return said.decode()

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the server did not start:\n{self.log}")
        try:
            return bool(json.loads(self._get("/health"))["status"] == "ok")
        except (urllib.error.URLError, ConnectionError):
            return False

    def __enter__(self) -> LlamaServer:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        try:
            eventually_sync(self._ready, START_SECONDS)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
