"""Settings that do not hold are named, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from qingyu_ai.settings import SettingsError, load
from qingyu_ai.settings.words import unreadable


def refusal(**overrides: object) -> str:
    with pytest.raises(SettingsError) as refused:
        load(**overrides)
    return str(refused.value)


def test_name_with_one_underscore_too_few_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINGYU_BRIDGE_PORT", "21999")
    monkeypatch.setenv("QINGYU_FOO", "1")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "QINGYU_BRIDGE_PORT; did you mean QINGYU_BRIDGE__PORT?" in str(refused.value)
    assert "QINGYU_FOO" in str(refused.value)


@pytest.mark.parametrize("text", ["bridge: [", "hello", "- a", "1: 2"])
def test_file_that_is_no_mapping_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    monkeypatch.setenv("QINGYU_CONFIG", str(path))
    with pytest.raises(SettingsError, match=r"bad\.yaml"):
        load()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("BRIDGE__PORT", "[1]", "is '[1]'; it must be a whole number from 0 to 65535"),
        ("BRIDGE__PORT", "true", "is 'true'; it must be a whole number from 0 to 65535"),
        ("CHAT__SLOTS", "-4", "is '-4'; it must be a whole number, at least 1"),
        ("BUS__LEASE_SECONDS", "0", "is '0'; it must be a number above 0"),
        ("BUS__REPLICAS", "2", "is 2; it must be 1, 3 or 5"),
        ("LOG__LEVEL", "loud", "is 'loud'; it must be debug, info, warning or error"),
        ("LOG__CALLS", "maybe", "is 'maybe'; it must be true or false"),
        ("BRIDGE__EXPECTED_WORKERS", '{"a": 1}', 'is {"a": 1}; it must be a list in brackets, such as ["one", "two"]'),
        ("BRIDGE", "5", "must be a section of settings; set them one by one, such as QINGYU_BRIDGE__AUTHENTICATION"),
        ("BRIDGE", "{", "must be a section of settings; set them one by one, such as QINGYU_BRIDGE__AUTHENTICATION"),
        ("OFFLINE__DELAY", "1", "is no setting; there are first_delay_seconds, deltas_per_second"),
    ],
)
def test_value_that_does_not_hold_is_shown_with_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"QINGYU_{name}", value)
    assert refusal() == f"settings that do not hold:\n  QINGYU_{name} {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("bridge: {host: 5}", "QINGYU_BRIDGE__HOST is 5; it must be a text"),
        ("bridge: {expected_workers: [1]}", "QINGYU_BRIDGE__EXPECTED_WORKERS, entry 1, is 1; it must be a text"),
        ("data_dir:", "QINGYU_DATA_DIR is empty; it must be a path"),
        ("bridge: {1: 2}", "QINGYU_BRIDGE__1 is no setting; there are authentication, token_key"),
        ("foo: 1", "QINGYU_FOO is no setting; there are data_dir, log, nats"),
    ],
)
def test_value_of_the_file_is_named_as_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    monkeypatch.setenv("QINGYU_CONFIG", str(path))
    assert refusal().startswith(f"settings that do not hold:\n  {sentence}")


def test_every_setting_that_does_not_hold_is_named_at_once_and_a_long_value_is_cut() -> None:
    lines = refusal(bridge={"port": "x" * 200}, chat={"slots": "many"}).splitlines()
    assert len(lines) == 3
    assert len(lines[1]) < 200


def test_value_that_may_hold_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "secret" not in refusal(nats={"url": ["nats://me:secret@host:4222"]})
    monkeypatch.setenv("QINGYU_NATS", "nats://me:secret@host:4222")
    assert "secret" not in refusal()


def test_names_with_values_that_cannot_be_read_are_not_shown() -> None:
    class Server(BaseModel):
        api_key: SecretStr

    class Servers(BaseModel):
        servers: dict[str, Server]

    assert unreadable({"QINGYU_SERVERS": '{"one": {"api_key": "secret"'}, Servers) == [
        'QINGYU_SERVERS must be names with values in braces, such as {"name": "value"}'
    ]


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        ("in_progress_seconds", "ack_wait_seconds"),
        ("beat_seconds", "lease_seconds"),
        ("store_seconds", "patience_seconds"),
    ],
)
def test_times_that_contradict_each_other_are_refused(shorter: str, longer: str) -> None:
    said = refusal(bus={shorter: 60, longer: 10})
    assert said == f"QINGYU_BUS__{shorter.upper()} must be below QINGYU_BUS__{longer.upper()}: 60 s against 10 s"


def test_section_that_is_misspelt_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINGYU_BRIGE__PORT", "1")
    assert "did you mean QINGYU_BRIDGE__PORT?" in refusal()
