"""docs/agents.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from qingyu_ai.routes import AGENT_TYPES
from services.agent import endings
from services.agent.library import Entry, Limits
from services.agent.shapes import SHAPES

from .scripted import Box, Lab, ScriptedModel, calls, request, says

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")

NAMED = set(re.findall(r"`(\w+)(?:\[\])?\??`", PAGE))


def fields(model: type[BaseModel]) -> set[str]:
    """All names in a shape, its parts too."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}


async def test_every_key_of_a_chunk_is_there() -> None:
    model = ScriptedModel(calls(("text_statistics", {}), ("no_such_tool", "[")), says("好", reasoning="嗯"))
    asked = request(tools=["text_statistics"], options={"enable_reasoning": True})
    chunks = await Lab(model, Box().with_tool("text_statistics")).stream(asked)
    assert {key for chunk in chunks for key in chunk.metadata} - NAMED == set()
    assert {chunk.chunk_type for chunk in chunks} == {"text", "reasoning", "tool_start", "tool_end"} <= NAMED


def test_every_ending_is_there() -> None:
    reasons = set(re.findall(r'"(AGENT_\w+)"', Path(endings.__file__).read_text(encoding="utf-8")))
    assert len(reasons) == 5
    assert reasons - NAMED == set()


def test_every_field_of_the_files_and_shapes_is_there() -> None:
    assert set(AGENT_TYPES) - NAMED == set()
    assert set(Entry.model_fields) - {"limits"} - NAMED == set()
    assert [name for name in Limits.model_fields if f"`limits.{name}`" not in PAGE] == []
    assert set().union(*(fields(shape) for shape in SHAPES.values())) - NAMED == set()
