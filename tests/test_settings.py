"""Settings that do not hold are named, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from qingyu_ai.settings import SettingsError, load


def test_name_with_one_underscore_too_few_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINGYU_BRIDGE_PORT", "21999")
    monkeypatch.setenv("QINGYU_FOO", "1")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "QINGYU_BRIDGE_PORT; did you mean QINGYU_BRIDGE__PORT?" in str(refused.value)
    assert "QINGYU_FOO" in str(refused.value)


@pytest.mark.parametrize("text", ["bridge: [", "hello", "- a"])
def test_file_that_is_no_mapping_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    monkeypatch.setenv("QINGYU_CONFIG", str(path))
    with pytest.raises(SettingsError, match=r"bad\.yaml"):
        load()
