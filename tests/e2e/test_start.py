"""Processes that cannot start say why, and with an exit status that tells whether trying again helps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_cluster import AnyNats
from tests.ports import free_port
from tests.running import ROOT

pytestmark = pytest.mark.once

CONFIGURATION, LOST = 2, 1
"""Exit statuses: starting again changes nothing; what it needs may come back."""


def run(folder: Path, module: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a process that must end by itself."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QINGYU_") and k != "NATS_URL"}
    env = {**inherited, "PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("setting", ["QINGYU_BRIDGE__PORT", "QINGYU_BRIDGE__METRICS_PORT"])
def test_bridge_refuses_a_port_that_is_taken_and_names_the_setting(
    tmp_path: Path, nats_process: AnyNats, taken: int, setting: str
) -> None:
    ports = {"QINGYU_BRIDGE__PORT": str(free_port()), "QINGYU_BRIDGE__METRICS_PORT": "0", setting: str(taken)}
    result = run(tmp_path, "bridge", NATS_URL=nats_process.url, **ports)
    assert result.returncode == CONFIGURATION, result.stdout
    assert setting in result.stdout
    assert str(taken) in result.stdout
    assert "Traceback" not in result.stdout


def test_worker_refuses_a_metrics_port_that_is_taken_and_names_the_setting(
    tmp_path: Path, nats_process: AnyNats, taken: int
) -> None:
    port = {"QINGYU_CHAT__METRICS_PORT": str(taken)}
    result = run(tmp_path, "services.chat", NATS_URL=nats_process.url, **port)
    assert result.returncode == CONFIGURATION, result.stdout
    assert "QINGYU_CHAT__METRICS_PORT" in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.parametrize(
    ("module", "setting", "value"),
    [
        ("bridge", "QINGYU_BRIDGE__PORT", "65536"),
        ("bridge", "QINGYU_BRIDGE__PROT", "50051"),
        ("bridge", "QINGYU_BUS__LONGEST_DEADLINE_SECONDS", "5000"),
        ("bridge", "QINGYU_CONFIG", "no-such.yaml"),
        ("services.chat", "QINGYU_BUS__LEASE_SECONDS", "soon"),
    ],
)
def test_settings_that_do_not_hold_are_named_and_nothing_starts(
    tmp_path: Path, module: str, setting: str, value: str
) -> None:
    result = run(tmp_path, module, NATS_URL="nats://127.0.0.1:1", **{setting: value})
    assert result.returncode == CONFIGURATION, result.stdout
    assert setting in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.parametrize("module", ["bridge", "services.chat"])
def test_process_without_a_broker_ends_and_says_where_it_looked(tmp_path: Path, module: str) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    result = run(tmp_path, module, NATS_URL=url, QINGYU_BRIDGE__PORT=str(free_port()))
    assert result.returncode == LOST, result.stdout
    assert "no NATS server at" in result.stdout
    assert url in result.stdout
    assert "Traceback" not in result.stdout
