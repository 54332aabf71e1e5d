"""How tools of MCP servers are named, which of their schemas pass, and what of a call is checked here."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool.definition import NAME
from services.tool.errors import InvalidParameters
from services.tool.mcp.checking import read
from services.tool.mcp.names import Original, mapped, name_all
from services.tool.mcp.schemas import UnfitSchema, checkable, parameters_of, refuse_unfit
from services.tool.schema import Schema

LOOP: Schema = {
    "type": "object",
    "properties": {"tree": {"$ref": "#/$defs/Tree"}},
    "$defs": {"Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}, "required": ["left"]}},
}


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("read", "files_read"),
        ("Read-File", "files_read_file"),
        ("io.github/search_code", "files_io_github_search_code"),
        ("查找", "files___"),
    ],
)
def test_name_is_in_lower_case_and_has_no_other_characters(name: str, here: str) -> None:
    assert mapped("files", name) == here


@given(st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), st.text(min_size=1, max_size=200))
def test_every_name_is_one_that_a_tool_may_have(server: str, name: str) -> None:
    assert NAME.fullmatch(mapped(server, name))


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert mapped("files", "a" * 100) != mapped("files", "a" * 101)


def test_first_of_two_has_the_name() -> None:
    named, [collision] = name_all({"a": ["b_c", "d"], "a_b": ["c"]}, own=["a_x"])
    assert named == {"a_b_c": Original("a", "b_c"), "a_d": Original("a", "d")}
    assert str(collision) == "'b_c' of the MCP server a and 'c' of the MCP server a_b would both be called 'a_b_c'"


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({}, "no object"),
        ({"type": "array"}, "no object"),
        ({"$ref": "#/$defs/A"}, "no object"),
        ({"type": "object", "properties": []}, "properties"),
        (
            {"type": "object", "properties": {"a": {"items": [{"$ref": "other.json#/a"}]}}},
            "another document, other.json",
        ),
        ({"type": "object", "description": "x" * 40_000}, "bytes"),
        ({"type": "object", "description": "\ud800"}, "no JSON"),
        ({"type": "object", "default": float("nan")}, "no JSON"),
    ],
)
def test_schema_that_cannot_be_passed_on_is_refused(schema: Schema, why: str) -> None:
    with pytest.raises(UnfitSchema, match=why):
        refuse_unfit(schema)


def test_schema_that_refers_to_itself_passes_and_is_checked_as_far_as_it_is_plain() -> None:
    refuse_unfit(LOOP)
    [parameter] = parameters_of(LOOP)
    assert (parameter.name, parameter.type) == ("tree", "object")
    checked = checkable(LOOP)
    assert read("t", checked, '{"tree": {"left": {"anything": 1}}}') == {"tree": {"left": {"anything": 1}}}
    with pytest.raises(InvalidParameters, match=r"tree\.left is missing"):
        read("t", checked, '{"tree": {}}')


def test_references_that_multiply_are_checked_to_a_bound() -> None:
    levels = {f"L{i}": {"anyOf": [{"$ref": f"#/$defs/L{i + 1}"}] * 9} for i in range(12)}
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/L0"}}, "$defs": {**levels, "L12": {}}}
    assert len(json.dumps(checkable(schema))) < 200_000


@pytest.mark.parametrize(
    ("schema", "value", "holds"),
    [
        ({"type": "integer"}, 1, True),
        ({"type": "integer"}, 1.0, True),
        ({"type": "integer"}, 1.5, False),
        ({"type": "integer"}, True, False),
        ({"type": "number", "exclusiveMinimum": 0}, 0, False),
        ({"type": "string", "maxLength": 2}, "字字", True),
        ({"type": "string", "maxLength": 2}, "字字字", False),
        ({"type": ["string", "null"]}, None, True),
        ({"type": ["string", "null"]}, 1, False),
        ({"type": "null"}, 0, False),
        ({"enum": ["a", 1]}, True, False),
        ({"const": "a"}, "b", False),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, ["a"], True),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, [], False),
        ({"type": "array", "items": {"type": "string"}}, ["a", 1], False),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, ["a"], True),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, 3, False),
        ({"type": "object", "additionalProperties": False}, {"a": 1}, False),
        ({"type": "object", "additionalProperties": False, "patternProperties": {"^a$": {}}}, {"a": 1}, True),
        ({"type": "string", "pattern": "^a+$"}, "b", True),  # the server's to check
        ({"allOf": [{"type": "string"}]}, 1, True),
        ({"type": "strange"}, 1, True),
        (True, 1, True),
        ({"minimum": "x", "enum": [], "required": 3, "properties": 4, "items": [1]}, [1], True),
    ],
)
def test_value_is_checked_by_what_can_be_said_in_a_sentence(schema: Any, value: Any, holds: bool) -> None:
    checked = checkable({"type": "object", "properties": {"x": schema}})
    text = json.dumps({"x": value})
    if holds:
        assert read("t", checked, text) == {"x": value}
        return
    with pytest.raises(InvalidParameters) as refused:
        read("t", checked, text)
    [violation] = refused.value.violations
    assert violation.parameter.startswith("x")
    assert violation.english
    assert violation.chinese


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(
    [
        "type",
        "properties",
        "required",
        "items",
        "anyOf",
        "oneOf",
        "enum",
        "const",
        "minimum",
        "maxLength",
        "$ref",
        "allOf",
    ]
)


@given(st.dictionaries(WORDS, JSON | st.dictionaries(WORDS, JSON, max_size=3), max_size=5), JSON)
def test_no_schema_and_no_value_is_too_strange(schema: Schema, value: Any) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    parameters_of(whole)
    with contextlib.suppress(InvalidParameters):
        read("t", checkable(whole), json.dumps({"x": value}))
