"""`up` with users and permissions: its own server lets nobody else in, and each process has its own password only."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from qingyu_ai.cli import guarded, nats_server
from qingyu_ai.cli.programs import broker, programs
from qingyu_ai.doors.rendering import password_variable
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import Settings, load
from tests.cli.command import Run, ports
from tests.waiting import eventually_sync

GIVEN = "pGivenByWhoStartedIt0001"
ON = {"QINGYU_NATS__PERMISSIONS": "true", "QINGYU_RAG__PROCESSES": "0"}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    for name in [name for name in os.environ if name.startswith("QINGYU_")] + ["NATS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    own = {"permissions": True, "passwords": {"operator": GIVEN}}
    return guarded.with_passwords(load(data_dir=tmp_path / "var", nats=own, rag={"processes": 0}))


def test_each_process_gets_its_own_password_and_the_server_gets_all(settings: Settings) -> None:
    found = {program.name: program.env for program in programs(settings)}
    variables = {name: password_variable(name) for name in NAMES}
    assert all(found["nats"][variable] for variable in variables.values())
    assert found["nats"][variables["operator"]] == GIVEN
    for name, role in (*((kind, kind) for kind in ("chat", "tool", "agent", "bridge")), ("streams", "setup")):
        held = [one for one, variable in variables.items() if found[name][variable]]
        assert (name, held) == (name, [role])
        assert found[name][variables[role]] == found["nats"][variables[role]]
    assert found["chat"]["QINGYU_BUS__MAKE_STREAMS"] == "false"


def test_passwords_that_nobody_gave_are_new_at_each_start(settings: Settings) -> None:
    again = guarded.with_passwords(load(nats={"permissions": True}))
    one, other = settings.nats.passwords, again.nats.passwords
    assert one.chat.get_secret_value() != other.chat.get_secret_value()
    assert len({getattr(one, name).get_secret_value() for name in NAMES}) == len(NAMES)


def test_configuration_has_the_users_and_no_secret(settings: Settings) -> None:
    guarded.write_configuration(settings)
    file = guarded.configuration(settings)
    assert str(file) in broker(settings).argv
    written = file.read_text(encoding="utf-8")
    assert nats_server.shipped("nats.conf").read_text(encoding="utf-8") in written
    assert "user: chat" in written
    assert not [name for name in NAMES if getattr(settings.nats.passwords, name).get_secret_value() in written]


def test_server_of_somebody_else_is_left_as_it_is() -> None:
    theirs = load(nats={"permissions": True, "url": "nats://nats.example:4222"})
    assert guarded.with_passwords(theirs) is theirs
    assert guarded.environment(theirs, "chat") == {}
    assert guarded.streams(theirs, {}) == []


async def attempt(url: str, **login: Any) -> str:
    client = Client()
    try:
        await client.connect(url, allow_reconnect=False, **login)
    except nats.errors.Error as e:
        return str(e)
    finally:
        await client.close()
    return ""


def test_a_system_under_permissions_starts_and_lets_nobody_else_in(run: Run) -> None:
    where = ports(**ON, **{password_variable("operator"): GIVEN})
    up = run("up", **where)
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=30)
    url = f"nats://127.0.0.1:{where['QINGYU_NATS__PORT']}"
    assert "Authorization Violation" in asyncio.run(attempt(url))
    assert asyncio.run(attempt(url, user="operator", password=GIVEN)) == ""
    up.process.send_signal(signal.SIGINT)
    assert up.finish() == 0
    assert GIVEN not in up.output
    assert "Violation" not in up.output.replace("Authorization Violation", "")
