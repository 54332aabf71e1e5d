"""Modules with tools that a worker cannot start with: each is named, with the setting, in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qingyu_ai.settings import SettingsError
from services.tool.loading import load


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", r"fails when it is imported: ZeroDivisionError: division by zero \(.*team_wrong.py, line 1\)"),
        ("import sys\nsys.exit('no licence')", r"fails when it is imported: SystemExit: no licence \(.*, line 2\)"),
        ("def f(:", "fails when it is imported: SyntaxError"),
        ("import no_such_module", "cannot be imported .*no_such_module"),
        ("", "has no tools"),
    ],
)
def test_module_that_fails_at_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "team_wrong.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "team_wrong", raising=False)
    with pytest.raises(SettingsError, match=rf"^QINGYU_TOOL__MODULES: team_wrong:? {said}"):
        load(["team_wrong"])


@pytest.mark.parametrize("port", ["99999", "-1", "eighty"])
def test_port_that_is_none_is_refused_in_a_sentence(port: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.tool.mcp", f"--http={port}"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"'{port}' is no port: a number from 0" in ended.stderr
    assert "Traceback" not in ended.stderr
