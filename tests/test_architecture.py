"""docs/architecture.md names what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def defined() -> set[str]:
    """All functions as `module.function` and `Class.method`."""
    found: set[str] = set()
    for folder in ("qingyu_ai", "bridge", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(f"{path.stem}.{node.name}")
                elif isinstance(node, ast.ClassDef):
                    members = (m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
                    found |= {f"{node.name}.{member.name}" for member in members}
                    fields = (m.target for m in node.body if isinstance(m, ast.AnnAssign))
                    found |= {f"{node.name}.{field.id}" for field in fields if isinstance(field, ast.Name)}
                    assigned = (
                        m for m in ast.walk(node) if isinstance(m, ast.Attribute) and isinstance(m.ctx, ast.Store)
                    )
                    found |= {f"{node.name}.{attribute.attr}" for attribute in assigned}
    return found


def test_functions_are_there() -> None:
    named = {name for name in re.findall(r"`(\w+\.\w+)`", PAGE) if not name.endswith((".py", ".conf", ".proto"))}
    named = {name for name in named if not re.match(r"(bridge|services|nats|bus)\.", name)}
    assert len(named) > 20
    assert named - defined() == set()


def test_files_are_there() -> None:
    named = set(re.findall(r"`([\w./-]+\.(?:py|conf))`", PAGE))
    rooms = ("", "qingyu_ai", "services/chat")
    assert {name for name in named if not any((ROOT / room / name).exists() for room in rooms)} == set()
