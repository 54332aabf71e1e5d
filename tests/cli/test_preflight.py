from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qingyu_ai.cli.preflight import Refused, check_ports, claim, free_ports, hold
from qingyu_ai.cli.programs import Listen, listens
from qingyu_ai.settings import Settings, load


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A system on free ports, whatever this machine's environment and directory say."""
    for name in [name for name in os.environ if name.startswith("QINGYU_")] + ["NATS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    nats, monitor, bridge, bridge_metrics, chat_metrics, tool_metrics, agent_metrics = free_ports(7)
    return load(
        nats={"port": nats, "monitor_port": monitor},
        bridge={"port": bridge, "metrics_port": bridge_metrics},
        chat={"metrics_port": chat_metrics},
        tool={"metrics_port": tool_metrics},
        agent={"metrics_port": agent_metrics},
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on, as a bridge does: with SO_REUSEPORT."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_free_ports_raise_no_problem_and_are_free_again_afterwards(settings: Settings) -> None:
    assert check_ports(listens(settings)) == []
    assert check_ports(listens(settings)) == []


@pytest.mark.parametrize(
    ("section", "name", "setting"),
    [
        ("nats", "port", "QINGYU_NATS__PORT"),
        ("nats", "monitor_port", "QINGYU_NATS__MONITOR_PORT"),
        ("bridge", "port", "QINGYU_BRIDGE__PORT"),
        ("bridge", "metrics_port", "QINGYU_BRIDGE__METRICS_PORT"),
        ("chat", "metrics_port", "QINGYU_CHAT__METRICS_PORT"),
        ("tool", "metrics_port", "QINGYU_TOOL__METRICS_PORT"),
        ("agent", "metrics_port", "QINGYU_AGENT__METRICS_PORT"),
    ],
)
def test_a_taken_port_names_its_setting(settings: Settings, taken: int, section: str, name: str, setting: str) -> None:
    part = getattr(settings, section).model_copy(update={name: taken})
    problems = check_ports(listens(settings.model_copy(update={section: part})))
    assert problems == [f"port {taken} is taken: set {setting} to a free one"]


def test_every_taken_port_is_named_at_once(settings: Settings, taken: int) -> None:
    bridge = settings.bridge.model_copy(update={"port": taken, "metrics_port": taken})
    assert len(check_ports(listens(settings.model_copy(update={"bridge": bridge})))) == 2


def test_two_settings_with_one_port_are_noticed(settings: Settings) -> None:
    chat = settings.chat.model_copy(update={"metrics_port": settings.bridge.metrics_port})
    problems = check_ports(listens(settings.model_copy(update={"chat": chat})))
    assert len(problems) == 1
    assert "_METRICS_PORT" in problems[0]


def test_a_port_whose_connections_have_only_just_closed_is_free() -> None:
    with hold("127.0.0.1", 0) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the side that closes first keeps the port in TIME_WAIT
    assert check_ports([Listen("127.0.0.1", port, ("bridge", "port"))]) == []


def test_a_host_that_is_not_this_machine_names_its_setting() -> None:
    problems = check_ports([Listen("192.0.2.1", 1234, ("bridge", "metrics_port"))])
    assert len(problems) == 1
    assert problems[0].startswith("cannot listen on 192.0.2.1:1234 (")
    assert "QINGYU_BRIDGE__METRICS_HOST" in problems[0]


def test_a_port_counted_up_beyond_the_last_one_names_its_setting() -> None:
    problems = check_ports([Listen("127.0.0.1", 65536, ("bridge", "metrics_port"))])
    assert problems == [
        "port 65536 does not exist: set QINGYU_BRIDGE__METRICS_PORT lower, it counts up with each process"
    ]


def test_a_data_directory_is_made_and_belongs_to_one_system(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "var"
    with claim(folder), pytest.raises(Refused, match=r"another `qingyu-ai up` uses .*QINGYU_DATA_DIR"), claim(folder):
        pass
    with claim(folder):  # free again
        pass


def test_a_data_directory_that_cannot_be_written_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(Refused, match=r"cannot write to .*file/var .*QINGYU_DATA_DIR"),
        claim(tmp_path / "file" / "var"),
    ):
        pass
