"""What is wrong with a parameter, in a sentence: its name, its value, and what is accepted there. In English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import InvalidParameters, Refusal, Violation
from .schema import Schema, type_of

MOST_VIOLATIONS = 8
"""Of one call that are told."""

LONGEST_VALUE = 60
"""Characters of a value that are shown."""

DEEPEST = 64
"""Brackets within brackets in the JSON text."""

Both = tuple[str, str]
"""The same in English and in Chinese."""

NOT_JSON: Both = (
    "they hold a number or a text that JSON does not have, or too many brackets",
    "含有 JSON 不支持的数字或文本，或括号层数过多",
)

P = TypeVar("P", bound=BaseModel)


def read_parameters(tool: str, model: type[P], schema: Schema, text: str) -> P:
    """Check the JSON text of a call's parameters strictly. An empty text is an empty object.

    Raises:
        InvalidParameters: with a violation for each parameter that does not hold, the first eight.
    """
    text = text.strip() or "{}"
    if problem := unreadable(text):
        raise InvalidParameters(tool, (Violation("", *problem),))
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)[:MOST_VIOLATIONS]
        # A value that is none of the choices of a union has an error for each of them, and one violation.
        violations = dict.fromkeys(_violation(dict(e), schema) for e in found)
        raise InvalidParameters(tool, tuple(violations)) from None


def unreadable(text: str) -> Both | None:
    """What is wrong with the text as JSON; None: it is an object."""
    try:
        text.encode()
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except _TwiceError as twice:
        return f"{twice.name} is given twice", f"{twice.name} 重复出现"
    except json.JSONDecodeError as error:
        where = error.pos + 1
        return f"they are not JSON (character {where})", f"不是合法的 JSON（第 {where} 个字符处）"
    except (ValueError, RecursionError):
        return NOT_JSON
    if not isinstance(value, dict):
        return 'they must be a JSON object, such as {"name": "value"}', '应为 JSON 对象，例如 {"name": "value"}'
    if _depth(value) > DEEPEST:
        return f"they have more than {DEEPEST} brackets within brackets", f"括号嵌套超过 {DEEPEST} 层"
    return None


class _TwiceError(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = _clipped(name)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names one thing twice: readers do not agree about which one counts."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= DEEPEST:
        deepest += 1
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
    return deepest


def _violation(error: dict[str, Any], schema: Schema) -> Violation:
    path = tuple(error["loc"])
    if error["type"] != "extra_forbidden":
        path = tuple(_walk(schema, path)[1])
    name = path_name(path)
    match error["type"]:
        case "extra_forbidden":
            english, chinese = unknown(path, schema)
        case "json_invalid":  # half a surrogate pair, for one: pydantic reads more strictly than Python
            return Violation("", *NOT_JSON)
        case "missing":
            english, chinese = accepted(_at(schema, path))
            english, chinese = f"{name} is missing; it must be {english}", f"缺少参数 {name}；应为{chinese}"
        case "value_error" if isinstance(refusal := error.get("ctx", {}).get("error"), Refusal):
            english = f"{name} {refusal.english}".strip()
            chinese = f"{name} {refusal.chinese}".strip()
        case "string_too_long" | "too_long":
            english, chinese = accepted(_at(schema, path))
            size = len(error["input"])
            english = f"{name} has a length of {size}; it must be {english}"
            chinese = f"{name} 的长度为 {size}；应为{chinese}"
        case _:
            english, chinese = accepted(_at(schema, path))
            value = shown(error["input"])
            english = f"{name} is {value}; it must be {english}"
            chinese = f"{name} 的值为 {value}；应为{chinese}"
    return Violation(name, english, chinese)


def unknown(path: tuple[int | str, ...], schema: Schema) -> Both:
    """Why there is no parameter at this path, and which there are."""
    name = path_name(path)
    inner = _at(schema, path[:-1])
    names = [name for one in (inner, *_choices(inner)) for name in one.get("properties", {})]
    if near := get_close_matches(str(path[-1]).lower(), names, n=1):
        return f"{name} is no parameter; did you mean {near[0]}?", f"没有参数 {name}；是否指 {near[0]}？"
    if not names:
        return f"{name} is no parameter; there are none", f"没有参数 {name}；该工具不需要参数"
    return f"{name} is no parameter; there are {', '.join(names)}", f"没有参数 {name}；可用参数：{'、'.join(names)}"


def accepted(schema: Schema) -> Both:
    """What a value must be, by its schema; every choice and property in it is an object."""
    if choices := _choices(schema):
        told = [accepted(one) for one in choices]
        return " or ".join(english for english, _ in told), "或".join(chinese for _, chinese in told)
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]]}
    if values := schema.get("enum"):
        names = [str(value) for value in values]
        *most, last = names
        return (f"{', '.join(most)} or {last}" if most else last), f" {'、'.join(names)} 之一"
    if "type" not in schema and "properties" not in schema:
        return "a value", "任意值"
    match type_of(schema):
        case "string":
            english, chinese = _sized(schema, "Length", ("a text", "文本"), ("characters", "个字符"))
            if form := schema.get("pattern"):
                return f"{english} of the form {form}", f"{chinese}，格式为 {form}"
            if form := schema.get("format"):
                return f"{english} ({form})", f"{chinese}（{form}）"
            return english, chinese
        case "integer":
            return _bounded(schema, ("a whole number", "整数"))
        case "number":
            return _bounded(schema, ("a number", "数字"))
        case "boolean":
            return "true or false", " true 或 false"
        case "array":
            return _sized(schema, "Items", ("a list", "列表"), ("entries", "项"))
        case _ if schema.get("type") == "null":
            return "null", " null"
        case _:
            return "an object in braces", "对象（花括号）"


def _sized(schema: Schema, what: str, base: Both, unit: Both) -> Both:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low and high:
        return f"{base[0]} of {low} to {high} {unit[0]}", f" {low} 至 {high} {unit[1]}的{base[1]}"
    if high is not None:
        return f"{base[0]} of at most {high} {unit[0]}", f"至多 {high} {unit[1]}的{base[1]}"
    if low:
        return f"{base[0]} of at least {low} {unit[0]}", f"至少 {low} {unit[1]}的{base[1]}"
    return base


def _bounded(schema: Schema, base: Both) -> Both:
    english, chinese = base
    for key, word, mark in (
        ("minimum", "at least", "不小于"),
        ("exclusiveMinimum", "above", "大于"),
        ("maximum", "at most", "不大于"),
        ("exclusiveMaximum", "below", "小于"),
    ):
        if key in schema:
            english += f", {word} {schema[key]}"
            chinese += f"，{mark} {schema[key]}"
    return english, chinese


def _at(schema: Schema, path: Sequence[int | str]) -> Schema:
    """The schema of the value at a path; empty where there is none."""
    return _walk(schema, path)[0]


def _walk(schema: Schema, path: Sequence[int | str]) -> tuple[Schema, list[int | str]]:
    """Follow a path. Pydantic also names the choices of a union in it: those steps are left out.

    Returns:
        The schema there (empty: none), and the path without them.
    """
    walked: list[int | str] = []
    for step in path:
        options = [schema, *_choices(schema)]
        inner = next((found for one in options if (found := _inner(one, step)) is not None), None)
        if inner is None and _choices(schema):
            continue
        walked.append(step)
        schema = inner or {}
    return schema, walked


def _inner(schema: Schema, step: int | str) -> Schema | None:
    """The schema of an entry or a property; None: there is none."""
    if isinstance(step, int):
        entries = schema.get("prefixItems", ())
        found = entries[step] if step < len(entries) else schema.get("items")
    else:
        found = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else None


def _choices(schema: Schema) -> list[Schema]:
    """What a value may be, other than null."""
    return [one for key in ("anyOf", "oneOf") for one in schema.get(key, ()) if one.get("type") != "null"]


def path_name(path: Sequence[int | str]) -> str:
    """A path as callers are told it: `words[2]`, `range.start`."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return _clipped(name)


def shown(value: object) -> str:
    """A value as callers are told it, cut if it is long."""
    if isinstance(value, BaseModel):
        return "{…}"
    if isinstance(value, str):
        value = value[: LONGEST_VALUE + 1]  # it may be a megabyte
    return _clipped(json.dumps(value, ensure_ascii=False, default=str))


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"
