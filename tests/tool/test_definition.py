from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from services.tool import definition
from services.tool.definition import Parameters, Tool, ToolCaller, tool
from services.tool.errors import DefinitionError, InvalidParameters, OutputTooLarge, Refusal, Violation


class Span(Parameters):
    """Part of a text."""

    start: int = Field(description="起点", ge=0)
    end: int = Field(default=10, description="终点", le=100)


class Wanted(Parameters):
    """What the example wants."""

    text: str = Field(description="正文", min_length=1, max_length=20)
    words: list[str] = Field(default=[], description="词", max_length=3)
    order: Literal["up", "down"] = Field(default="up", description="次序")
    span: Span | None = Field(default=None, description="范围")
    share: float = Field(default=0.5, description="占比", gt=0, lt=1)
    strict: bool = Field(default=False, description="严格")

    @model_validator(mode="after")
    def _not_both(self) -> Wanted:
        if self.strict and self.words:
            raise Refusal("words must be empty when strict is true", "strict 为 true 时 words 应为空")
        return self


class Said(BaseModel):
    """What the example returns."""

    said: str


@pytest.fixture(autouse=True)
def names_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "_defined", {})


def make() -> Tool[Wanted, Said]:
    @tool(category="text", seconds=2.0)
    def example(parameters: Wanted) -> Said:
        """数一数 text 里的字，
        并用 JSON object 回答。

        Not for models.
        """
        return Said(said=parameters.text)

    return example


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


@pytest.mark.parametrize(
    ("text", "parameter", "english", "chinese"),
    [
        (
            "",
            "text",
            "text is missing; it must be a text of 1 to 20 characters",
            "缺少参数 text；应为 1 至 20 个字符的文本",
        ),
        ('{"text": 1}', "text", "text is 1; it must be a text of 1 to 20", "text 的值为 1；应为 1 至 20 个字符的文本"),
        ('{"text": ""}', "text", 'text is ""; it must be', 'text 的值为 ""'),
        ('{"text": "' + "雨" * 21 + '"}', "text", "text has a length of 21; it must be", "text 的长度为 21"),
        ('{"text": "雨", "wrods": []}', "wrods", "did you mean words?", "是否指 words？"),
        ('{"text": "雨", "zzz": 1}', "zzz", "there are text, words, order", "可用参数：text、words"),
        ('{"text": "雨", "words": ["a", 2]}', "words[1]", "words[1] is 2; it must be a text", "应为文本"),
        ('{"text": "雨", "words": "a"}', "words", "it must be a list of at most 3 entries", "至多 3 项的列表"),
        ('{"text": "雨", "order": "left"}', "order", 'order is "left"; it must be up or down', "应为 up、down 之一"),
        ('{"text": "雨", "strict": 1}', "strict", "it must be true or false", "true 或 false"),
        ('{"text": "雨", "share": 1}', "share", "a number, above 0, below 1", "大于 0，小于 1"),
        ('{"text": "雨", "span": {"start": -1}}', "span.start", "a whole number, at least 0", "整数，不小于 0"),
        ('{"text": "雨", "span": {"start": "1"}}', "span.start", 'span.start is "1"', '的值为 "1"'),
        (
            '{"text": "雨", "span": {"begin": 1, "start": 1}}',
            "span.begin",
            "there are start, end",
            "可用参数：start、end",
        ),
        ('{"text": "雨", "strict": true, "words": ["a"]}', "", "words must be empty when", "words 应为空"),
        ('{"text": "雨", "text": "雪"}', "", "text is given twice", "text 重复出现"),
        ("[]", "", "they must be a JSON object", "应为 JSON 对象"),
        ('{"text": "雨"', "", "they are not JSON (character 13)", "第 13 个字符处"),
        ('{"share": NaN}', "", "a number or a text that JSON does not have", "JSON 不支持"),
        ('{"text": "\\ud800"}', "", "a number or a text that JSON does not have", "JSON 不支持"),
        ('{"text": ' + "[" * 100_000, "", "too many brackets", "括号层数过多"),
        ('{"text": ' + "[" * 100 + "]" * 100 + "}", "", "more than 64 brackets", "超过 64 层"),
    ],
)
def test_wrong_parameters_are_told_in_our_own_words(text: str, parameter: str, english: str, chinese: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        make().read(text)
    violation = caught.value.violations[0]
    assert violation.parameter == parameter
    assert english in violation.english
    assert chinese in violation.chinese
    assert english in caught.value.english
    for foreign in ("pydantic", "http", "Input should", "_type"):
        assert foreign not in caught.value.english + caught.value.chinese


def test_many_wrong_parameters_are_told_up_to_a_limit() -> None:
    with pytest.raises(InvalidParameters) as caught:
        make().read(json.dumps({"text": "雨"} | {f"x{n}": n for n in range(100)}))
    assert len(caught.value.violations) == 8


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_taken_or_refused_with_a_sentence(value: object) -> None:
    definition._defined.clear()
    for name in ("text", "words", "order", "span", "share", "strict"):
        violations: tuple[Violation, ...] = ()
        read = None
        try:
            read = make().read(json.dumps({"text": "雨", name: value}))
        except InvalidParameters as error:
            violations = error.violations
        assert bool(violations) == (read is None)
        assert read is None or getattr(read, name) == value
        assert all(v.english and v.chinese for v in violations)


def test_result_is_written_as_chinese_and_without_nan() -> None:
    made = make()
    assert made.encode(Said(said="雨")) == '{"said":"雨"}'
    assert made.encode({"list": [Said(said="雨")]}) == '{"list":[{"said":"雨"}]}'
    for wrong in (float("nan"), float("inf"), {"a": object()}, {"a": {1, 2}}, "\ud800"):
        with pytest.raises((ValueError, TypeError)):
            made.encode(wrong)
    with pytest.raises(OutputTooLarge):
        made.encode("雨" * 30_000)


def no_docstring(parameters: Span) -> Said:
    return Said(said="")


def no_parameters() -> Said:
    """怪。"""
    return Said(said="")


def two_parameters(parameters: Span, more: int) -> Said:
    """怪。"""
    return Said(said="")


def any_parameters(*parameters: Span) -> Said:
    """怪。"""
    return Said(said="")


def no_model(parameters: dict[str, str]) -> Said:
    """怪。"""
    return Said(said="")


def no_result(parameters: Span):  # type: ignore[no-untyped-def]
    """怪。"""


async def no_caller(parameters: Span) -> Said:
    """怪。"""
    return Said(said="")


async def other_caller(parameters: Span, caller: str) -> Said:
    """怪。"""
    return Said(said="")


def WrongName(parameters: Span) -> Said:
    """怪。"""
    return Said(said="")


class Loose(BaseModel):
    """A model that takes anything."""

    inner: int = Field(default=0, description="数")


class HoldsLoose(Parameters):
    """A model with a loose one in it."""

    loose: Loose = Field(description="松")


class Undescribed(Parameters):
    """A model that does not say what it takes."""

    text: str


class Endless(Parameters):
    """A model within itself."""

    more: list[Endless] = Field(description="更多")


def loose(parameters: Loose) -> Said:
    """怪。"""
    return Said(said="")


def holds_loose(parameters: HoldsLoose) -> Said:
    """怪。"""
    return Said(said="")


def undescribed(parameters: Undescribed) -> Said:
    """怪。"""
    return Said(said="")


def endless_model(parameters: Endless) -> Said:
    """怪。"""
    return Said(said="")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_docstring, "has no docstring"),
        (no_parameters, r"must take \(parameters: Model\)"),
        (two_parameters, r"must take \(parameters: Model\)"),
        (any_parameters, r"must take \(parameters: Model\)"),
        (no_model, "derived from Parameters"),
        (no_result, "must say what it returns"),
        (no_caller, r"caller: ToolCaller\)"),
        (other_caller, r"caller: ToolCaller\)"),
        (WrongName, "must match"),
        (loose, "derived from Parameters"),
        (holds_loose, "accepts unknown names"),
        (undescribed, "has no description"),
        (endless_model, "refers to itself"),
    ],
)
def test_wrong_function_is_refused_at_import(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        tool(category="text")(function)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"category": "Text"}, "category 'Text'"),
        ({"category": "text", "seconds": 0}, "seconds"),
        ({"category": "text", "seconds": float("nan")}, "seconds"),
        ({"category": "text", "max_output_bytes": 10_000_000}, "max_output_bytes"),
    ],
)
def test_wrong_arguments_are_refused_at_import(arguments: dict[str, Any], said: str) -> None:
    def fine(parameters: Span) -> Said:
        """好。"""
        return Said(said="")

    with pytest.raises(DefinitionError, match=said):
        tool(**arguments)(fine)


def test_name_is_defined_once() -> None:
    def fine(parameters: Span) -> Said:
        """好。"""
        return Said(said="")

    def other(parameters: Span) -> Said:
        """好。"""
        return Said(said="")

    other.__name__ = "fine"
    tool(category="text")(fine)
    tool(category="text")(fine)
    with pytest.raises(DefinitionError, match="defined twice"):
        tool(category="text")(other)


async def test_asynchronous_tool_takes_its_caller() -> None:
    @tool(category="text", requires_auth=True, repeatable=False)
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
