from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qingyu_ai.cli.process import Stage
from qingyu_ai.cli.programs import as_environment, broker_url, listens, programs
from qingyu_ai.settings import Settings, load


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("QINGYU_")] + ["NATS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_default_system_is_a_broker_workers_and_a_bridge() -> None:
    found = programs(load())
    assert [(program.name, program.stage) for program in found] == [
        ("nats", Stage.BROKER),
        ("chat", Stage.WORKER),
        ("tool", Stage.WORKER),
        ("bridge", Stage.EDGE),
    ]
    assert found[1].argv == (sys.executable, "-m", "services.chat")
    assert found[2].argv == (sys.executable, "-m", "services.tool")
    assert found[3].argv == (sys.executable, "-m", "bridge")


def test_several_processes_of_a_kind_share_their_port_and_have_a_metrics_port_each() -> None:
    settings = load(bridge={"processes": 3, "port": 6000, "metrics_port": 7000})
    bridges = [program for program in programs(settings) if program.name.startswith("bridge")]
    assert [program.name for program in bridges] == ["bridge-1", "bridge-2", "bridge-3"]
    assert [program.env["QINGYU_BRIDGE__METRICS_PORT"] for program in bridges] == ["7000", "7001", "7002"]
    ports = [listen.port for listen in listens(settings)]
    assert ports.count(6000) == 1
    assert [port for port in ports if 7000 <= port < 8000] == [7000, 7001, 7002]


def test_no_two_default_ports_collide_however_many_processes_there_are() -> None:
    ports = [
        listen.port
        for listen in listens(load(bridge={"processes": 64}, chat={"processes": 64}, tool={"processes": 64}))
    ]
    assert len(ports) == len(set(ports))


def test_a_metrics_port_of_zero_stays_zero_for_every_process() -> None:
    settings = load(chat={"processes": 2, "metrics_port": 0})
    chats = [program for program in programs(settings) if program.name.startswith("chat")]
    assert [program.env["QINGYU_CHAT__METRICS_PORT"] for program in chats] == ["0", "0"]
    assert not any("CHAT" in listen.setting for listen in listens(settings))


def test_no_processes_of_a_kind_means_none() -> None:
    assert [program.name for program in programs(load(chat={"processes": 0}))] == ["nats", "tool", "bridge"]


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
    assert [program.name for program in found] == ["chat", "tool", "bridge"]
    assert {program.env["QINGYU_NATS__URL"] for program in found} == {"nats://elsewhere:4222"}
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
