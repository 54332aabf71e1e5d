"""The model of the fault suite as a child process.

with Model() as model:
    settings = model.settings
    ...
    attempts = model.ledger()["沈17"]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections import defaultdict
from types import TracebackType

from tests.running import ROOT

from .ledger import Attempt
from .upstream import ATTEMPTS, PREFIX, RESTART

CONTROL_SECONDS = 10.0

CONTINUATIONS = {PREFIX: "prefix", RESTART: "turn"}
"""How each way of going on is asked for: a model that is given its answer marked goes on with it, one that is asked in a turn
of the user's begins with a repeat."""


class Model:
    """The process, as a context manager."""

    def __init__(self) -> None:
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Without proxies: http_proxy is for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Model:
        command = [sys.executable, "-m", "tests.faults.upstream"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise RuntimeError("the model did not start; its error is above")
        self._port = json.loads(line)["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def settings(self) -> dict[str, str]:
        """What makes it the model of a system, under the two names `prefix` and `restart`."""
        base_url = f"http://127.0.0.1:{self._port}/v1"
        models = {
            name: {"base_url": base_url, "model": name, "continuation": continuation, "connections": 2000}
            for name, continuation in CONTINUATIONS.items()
        }
        return {"QINGYU_LLM__MODELS": json.dumps(models)}

    def ledger(self) -> dict[str, list[Attempt]]:
        """All attempts, by call; a call that it never heard of has none."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/ledger")
        with self._opener.open(request, timeout=CONTROL_SECONDS) as answer:
            attempts = ATTEMPTS.validate_json(answer.read())
        by_call: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            by_call[attempt.call].append(attempt)
        return by_call

    def forget(self) -> None:
        """Forget all attempts."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/ledger", method="DELETE")
        with self._opener.open(request, timeout=CONTROL_SECONDS):
            pass
