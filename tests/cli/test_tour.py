"""The example against a service that keeps its promises, and against one that breaks one of them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake_agent import ANSWER, FakeAgent, serve
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]

Tour = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tour() -> Iterator[Tour]:
    servers = []

    def take(fault: str) -> subprocess.CompletedProcess[str]:
        server, port = serve(FakeAgent(fault))
        servers.append(server)
        return run(f"127.0.0.1:{port}")

    yield take
    for server in servers:
        server.stop(grace=None).wait()


def run(target: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/tour.py", "--target", target]
    env = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_tour_passes_and_shows_the_answers_with_what_they_cost(tour: Tour) -> None:
    result = tour("")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(ANSWER) == 3
    for key in ("x-usage-prompt", "x-usage-completion", "x-usage-estimated", "x-finish-reason", "x-model"):
        assert result.stdout.count(key) == 3
    assert "ms to the first chunk" in result.stdout
    assert "chat: 1 replica" in result.stdout


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("unhealthy", "the system says it is 'unhealthy'"),
        ("unavailable", "UNAVAILABLE: no chat worker answers"),
        ("empty answer", "the answer is empty"),
        ("empty stream", "the answer is empty"),
        ("no final chunk", "the stream ended without a final chunk"),
        ("text after the end", "a chunk came after the final one"),
        ("another id", "the initial metadata does not return the request id"),
        ("no usage", "the metadata lacks x-usage-prompt"),
        ("no memory", "the history is not in it"),
    ],
)
def test_a_broken_promise_ends_the_tour_with_its_name(tour: Tour, fault: str, complaint: str) -> None:
    result = tour(fault)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_an_address_where_nobody_listens_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module: Any = importlib.import_module("tour")
    [port] = free_ports(1)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(sys, "argv", ["tour.py", "--target", f"127.0.0.1:{port}"])
    assert module.main() == 1
    assert f"no connection to 127.0.0.1:{port}" in capsys.readouterr().err
