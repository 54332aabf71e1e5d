"""The text side of retrieval is functions of texts and numbers: no I/O, no database, no bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_imports import imports, is_under

FOLDER = Path(__file__).parents[2] / "services" / "rag"
PURE = ("splitting", "terms", "ranking", "rerank", "highlights", "lexical")
WORLD = ("asyncio", "nats", "psycopg", "structlog", "pathlib", "os", "qingyu_ai")


@pytest.mark.parametrize("module", PURE)
def test_text_side_does_no_io(module: str) -> None:
    names = list(imports(FOLDER / f"{module}.py"))
    assert names
    assert [name for name in names if any(is_under(name, world) for world in WORLD)] == []
