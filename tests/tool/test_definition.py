"""A tool describes itself, writes its results, and takes its caller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from services.tool import definition
from services.tool.definition import Parameters, ToolCaller, tool
from services.tool.errors import OutputTooLarge

from .conftest import Said, Span, Wanted, make

pytestmark = pytest.mark.usefixtures("names_of_its_own")


def test_tool_describes_itself() -> None:
    made = make()
    assert made.name == "example"
    assert made.description == "数一数 text 里的字，并用 JSON object 回答。"
    assert made.is_computed
    assert made(Wanted(text="雨")) == Said(said="雨")
    told = {one.name: (one.type, one.required, one.default_value) for one in made.parameters}
    assert told == {
        "text": ("string", True, ""),
        "words": ("array", False, "[]"),
        "order": ("string", False, '"up"'),
        "span": ("object", False, "null"),
        "share": ("number", False, "0.5"),
        "strict": ("boolean", False, "false"),
    }


def test_example_of_the_documentation_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "example"}
    exec(page.split("```python\n")[1].split("```")[0], names)  # noqa: S102
    repeat = names["repeat"]
    assert repeat(repeat.read('{"text": "雪", "times": 3}')) == {"text": "雪雪雪"}


def test_function_schema_has_no_references_and_no_titles() -> None:
    schema = make().function_schema
    text = json.dumps(schema)
    assert "$ref" not in text
    assert '"title"' not in text
    assert schema["parameters"]["required"] == ["text"]
    assert schema["parameters"]["additionalProperties"] is False
    [span, _] = schema["parameters"]["properties"]["span"]["anyOf"]
    assert span["properties"]["start"] == {"description": "起点", "minimum": 0, "type": "integer"}


def test_parameter_may_be_called_like_a_word_of_json_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Parameters):
        """Odd names."""

        title: str = Field(description="标题")
        properties: str = Field(description="性质")

    monkeypatch.setitem(globals(), "Odd", Odd)

    @tool(category="text")
    def odd(parameters: Odd) -> Said:
        """怪。"""
        return Said(said="")

    assert [one.name for one in odd.parameters] == ["title", "properties"]


def test_digest_tells_schemas_apart() -> None:
    first = make()
    definition._defined.clear()

    @tool(category="text")
    def example(parameters: Span) -> Said:
        """别的。"""
        return Said(said="")

    definition._defined.clear()
    assert len(first.schema_digest) == 64
    assert first.schema_digest == make().schema_digest
    assert first.schema_digest != example.schema_digest


def test_result_is_written_as_chinese_and_without_nan() -> None:
    made = make()
    assert made.encode(Said(said="雨")) == '{"said":"雨"}'
    assert made.encode({"list": [Said(said="雨")]}) == '{"list":[{"said":"雨"}]}'
    for wrong in (float("nan"), float("inf"), {"a": object()}, {"a": {1, 2}}, "\ud800"):
        with pytest.raises((ValueError, TypeError)):
            made.encode(wrong)
    with pytest.raises(OutputTooLarge):
        made.encode("雨" * 30_000)


async def test_asynchronous_tool_takes_its_caller() -> None:
    @tool(category="text", requires_auth=True, repeatable=False, in_worker=True)
    async def asking(parameters: Span, caller: ToolCaller) -> Said:
        """问别的服务。"""
        return Said(said=(await caller.ask("/a.B/C", b"?")).decode())

    class Scripted:
        user = "u1"
        project = ""
        seconds_left = 1.0

        async def ask(self, path: str, request: bytes) -> bytes:
            return f"{path} {request.decode()}".encode()

    assert not asking.is_computed
    assert await asking.function(Span(start=1), Scripted()) == Said(said="/a.B/C ?")
    with pytest.raises(TypeError, match="asynchronous"):
        asking(Span(start=1))
