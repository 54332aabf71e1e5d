"""Modules with tools that a worker cannot start with: each is named, with the setting, in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qingyu_ai.settings import SettingsError, Tool
from services.tool.builtin.word_finder import WordFinder
from services.tool.loading import load, settings_of


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


def listed(own: Tool) -> list[str]:
    words = settings_of(own)["sensitive_words"]
    assert isinstance(words, list)
    return words


def test_review_has_a_list_of_words_also_where_a_deployment_names_none() -> None:
    finder = WordFinder(listed(Tool()))
    assert [hit.word for hit in finder.find("想看全文的加 微-信，扫码进群，另有代写。")] == [
        "加微信",
        "扫码进群",
        "代写",
    ]
    assert finder.find("他掏出手机扫码付了钱，又给她回了一条微信。") == []


def test_list_of_the_deployment_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "words.txt"
    own.write_text("# 自己的\n违禁\n", encoding="utf-8")
    assert listed(Tool(words_file=own)) == ["违禁"]
    own.write_text("# 没有\n", encoding="utf-8")
    assert listed(Tool(words_file=own)) == []
    with pytest.raises(SettingsError, match=r"QINGYU_TOOL__WORDS_FILE: .*nowhere.txt cannot be read"):
        settings_of(Tool(words_file=tmp_path / "nowhere.txt"))
