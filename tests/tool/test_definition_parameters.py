"""Parameters that a tool does not take are told in sentences."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from services.tool import definition
from services.tool.definition import Parameters, tool
from services.tool.errors import InvalidParameters, Violation

from .conftest import Said, make

pytestmark = pytest.mark.usefixtures("names_of_its_own")


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


class Mixed(Parameters):
    """Parameters of several types."""

    either: int | list[int] = Field(default=0, description="二者之一")
    table: dict[str, int] = Field(default={}, description="表")
    pair: tuple[int, str] = Field(default=(0, ""), description="对")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"either": "x"}', 'either is "x"; it must be a whole number or a list'),
        ('{"either": [1, "x"]}', 'either[1] is "x"; it must be a whole number'),
        ('{"table": {"a": "x"}}', 'table.a is "x"; it must be a whole number'),
        ('{"table": 1}', "table is 1; it must be an object in braces"),
        ('{"pair": [1, 2]}', "pair[1] is 2; it must be a text"),
    ],
)
def test_values_within_unions_tables_and_pairs(text: str, said: str) -> None:
    @tool(category="text")
    def mixed(parameters: Mixed) -> Said:
        """杂。"""
        return Said(said="")

    with pytest.raises(InvalidParameters) as caught:
        mixed.read(text)
    assert said in [violation.english for violation in caught.value.violations]


@settings(deadline=None)  # a busy machine takes longer now and then
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
