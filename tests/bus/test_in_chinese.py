"""No phrase about a field is forgotten in Chinese, wherever it is written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qingyu_ai.bus.errors import Invalid
from qingyu_ai.bus.in_chinese import in_chinese

ROOT = Path(__file__).parents[2]


def phrases() -> list[tuple[str, str]]:
    """(file, phrase) of every `Invalid((field, phrase), …)`; what is filled in later stands as 7."""
    found = []
    for folder in ("qingyu_ai", "bridge", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Invalid":
                    pairs = [one.elts for one in node.args if isinstance(one, ast.Tuple) and len(one.elts) == 2]
                    found += [(str(path.relative_to(ROOT)), phrase) for _, what in pairs if (phrase := text_of(what))]
    return found


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "7" for one in node.values)
    return ""


@pytest.mark.parametrize(("path", "phrase"), phrases())
def test_phrase_is_there_in_chinese(path: str, phrase: str) -> None:
    assert in_chinese(phrase) != phrase


def test_those_of_the_agents_are_among_them() -> None:
    assert "services/agent/prompting.py" in {path for path, _ in phrases()}


def test_a_violation_may_bring_its_own_chinese() -> None:
    fault = Invalid(("a", "is odd", "是奇数"), ("b", "is required"))
    assert fault.message == "The request is not valid: a: is odd; b: is required"
    assert fault.chinese == "请求无效：a：是奇数；b：必填"
    assert fault.violations == (("a", "is odd"), ("b", "is required"))
