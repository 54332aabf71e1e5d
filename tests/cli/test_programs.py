from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from qingyu_ai.cli import postgres
from qingyu_ai.cli.nats_server import NotInstalled
from qingyu_ai.cli.process import Stage
from qingyu_ai.cli.programs import KINDS, as_environment, broker_url, listens, merged, programs
from qingyu_ai.settings import Settings, load


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("QINGYU_")] + ["NATS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """These tests start nothing: where PostgreSQL is does not matter, only whether."""
    monkeypatch.setattr(postgres, "programs_folder", lambda: tmp_path)


def test_the_default_system_is_a_broker_a_database_workers_and_a_bridge() -> None:
    found = programs(load())
    assert [(program.name, program.stage) for program in found] == [
        ("nats", Stage.BROKER),
        ("postgres", Stage.BROKER),
        ("chat", Stage.WORKER),
        ("tool", Stage.WORKER),
        ("agent", Stage.WORKER),
        ("rag", Stage.WORKER),
        ("bridge", Stage.EDGE),
    ]
    assert found[2].argv == (sys.executable, "-m", "services.chat")
    assert found[3].argv == (sys.executable, "-m", "services.tool")
    assert found[4].argv == (sys.executable, "-m", "services.agent")
    assert found[5].argv == (sys.executable, "-m", "services.rag")
    assert found[6].argv == (sys.executable, "-m", "bridge")


def test_health_expects_every_kind_of_worker_that_the_default_system_starts() -> None:
    workers = {kind.name for kind in KINDS if kind.stage is Stage.WORKER}
    assert workers == set(load().bridge.expected_workers)


def no_wheel() -> Path:
    raise NotInstalled("PostgreSQL is not installed: …")


def test_where_postgresql_is_not_installed_retrieval_is_left_out_and_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert postgres.left_out(load()) == {}
    monkeypatch.setattr(postgres, "programs_folder", no_wheel)
    settings = load(**postgres.left_out(load()))
    assert {"postgres", "rag"}.isdisjoint(program.name for program in programs(settings))
    assert settings.bridge.expected_workers == ("chat", "tool", "agent")


def test_a_database_that_the_settings_name_needs_no_postgresql_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "programs_folder", no_wheel)
    named = load(rag={"dsn": "postgresql://worker@db.example/texts"})
    assert postgres.left_out(named) == {}
    assert "rag" in [program.name for program in programs(named)]


def test_settings_by_section_are_put_together_and_the_later_ones_win() -> None:
    first: dict[str, dict[str, object]] = {"rag": {"processes": 0}, "bridge": {"port": 1}}
    assert merged(first, {"bridge": {"port": 2, "host": "h"}}) == {
        "rag": {"processes": 0},
        "bridge": {"port": 2, "host": "h"},
    }


def test_several_processes_of_a_kind_share_their_port_and_have_a_metrics_port_each() -> None:
    settings = load(bridge={"processes": 3, "port": 6000, "metrics_port": 7000})
    bridges = [program for program in programs(settings) if program.name.startswith("bridge")]
    assert [program.name for program in bridges] == ["bridge-1", "bridge-2", "bridge-3"]
    assert [program.env["QINGYU_BRIDGE__METRICS_PORT"] for program in bridges] == ["7000", "7001", "7002"]
    ports = [listen.port for listen in listens(settings)]
    assert ports.count(6000) == 1
    assert [port for port in ports if 7000 <= port < 8000] == [7000, 7001, 7002]


def test_no_two_default_ports_collide_however_many_processes_there_are() -> None:
    many = {kind.name: {"processes": 64} for kind in KINDS}
    ports = [listen.port for listen in listens(load(**many))]
    assert len(ports) == len(set(ports))


def test_a_metrics_port_of_zero_stays_zero_for_every_process() -> None:
    settings = load(chat={"processes": 2, "metrics_port": 0})
    chats = [program for program in programs(settings) if program.name.startswith("chat")]
    assert [program.env["QINGYU_CHAT__METRICS_PORT"] for program in chats] == ["0", "0"]
    assert not any("CHAT" in listen.setting for listen in listens(settings))


def test_no_processes_of_a_kind_means_none() -> None:
    assert [program.name for program in programs(load(chat={"processes": 0}, rag={"processes": 0}))] == [
        *("nats", "tool", "agent", "bridge")
    ]


def test_proxies_find_the_bridge_of_their_machine_and_share_one_key() -> None:
    found = programs(load(proxy={"processes": 2}, bridge={"port": 6001}))
    proxies = [program for program in found if program.name.startswith("proxy")]
    assert [program.name for program in proxies] == ["proxy-1", "proxy-2"]
    assert {program.env["QINGYU_AI__PROXY__PYTHON_ADDR"] for program in proxies} == {"127.0.0.1:6001"}
    assert len({program.env["QINGYU_PROXY__TICKET_KEY"] for program in proxies}) == 1
    assert not any("QINGYU_PROXY__TICKET_KEY" in program.env for program in found if program not in proxies)
    elsewhere = load(proxy={"processes": 1}, ai={"proxy": {"python_addr": "dns:///bridge:50051"}})
    assert programs(elsewhere)[-1].env["QINGYU_AI__PROXY__PYTHON_ADDR"] == "dns:///bridge:50051"


def test_a_given_server_replaces_our_own_and_its_ports_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:4222")
    settings = load()
    found = programs(settings)
    assert [program.name for program in found] == ["postgres", "chat", "tool", "agent", "rag", "bridge"]
    assert {program.env["QINGYU_NATS__URL"] for program in found[1:]} == {"nats://elsewhere:4222"}
    assert not any("NATS" in listen.setting for listen in listens(settings))


def test_the_broker_stores_in_the_data_directory_and_listens_where_the_settings_say(tmp_path: Path) -> None:
    argv = programs(load(nats={"port": 5222, "monitor_port": 0}))[0].argv
    assert argv[-8:] == ("-a", "127.0.0.1", "-p", "5222", "-m", "0", "-sd", str(tmp_path / "var" / "nats"))


def test_a_process_has_longer_to_stop_than_it_takes_to_drain() -> None:
    bridge = programs(load(bridge={"drain_seconds": 7}))[-1]
    assert bridge.stop_seconds > 7


def test_a_child_reads_the_settings_that_its_supervisor_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overrides = {"data_dir": tmp_path / "data", "bridge": {"port": 6001}, "bus": {"replicas": 1}}
    bridge = programs(load(**overrides), as_environment(overrides))[-1]
    for name, value in bridge.env.items():
        monkeypatch.setenv(name, value)
    child = load()
    assert (child.data_dir, child.bridge.port, child.log.format) == (tmp_path / "data", 6001, "json")
    assert child.nats.url == "nats://127.0.0.1:4222"


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overrides = {
        "data_dir": tmp_path,
        "bridge": {"expected_workers": ["chat", "agent"], "host": "::1"},
        "offline": {"first_delay_seconds": 0.25},
        "log": {"calls": True},
    }
    for name, value in as_environment(overrides).items():
        monkeypatch.setenv(name, value)
    assert load() == Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks each one


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "nats://127.0.0.1:4222"), ("0.0.0.0", "nats://127.0.0.1:4222"), ("::", "nats://[::1]:4222")],
)
def test_children_connect_to_an_address_that_can_be_reached(host: str, url: str) -> None:
    assert broker_url(load(nats={"host": host})) == url


def test_a_retrieval_worker_without_a_database_of_its_own_gets_one_that_starts_before_it_and_stops_fast() -> None:
    settings = load(rag={"processes": 2, "port": 6543})
    found = programs(settings)
    assert [program.name for program in found] == [
        *("nats", "postgres", "chat", "tool", "agent", "rag-1", "rag-2", "bridge")
    ]
    assert (found[1].stage, found[1].stop_signal) == (Stage.BROKER, signal.SIGINT)
    assert found[1].argv[-3:] == (str(settings.data_dir.absolute() / "postgres"), "127.0.0.1", "6543")
    assert 6543 in [listen.port for listen in listens(settings)]


@pytest.mark.parametrize("rag", [{"processes": 0}, {"dsn": "postgresql://worker@db.example/texts"}])
def test_no_database_is_started_that_nobody_would_use(rag: dict[str, object]) -> None:
    settings = load(rag=rag)
    assert "postgres" not in [program.name for program in programs(settings)]
    assert not any(listen.setting == "QINGYU_RAG__PORT" for listen in listens(settings))
