"""Checks an answer against a JSON shape: what was written is put right by rule where that is safe, and what is wrong is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from .lenient import Unreadable, read
from .shapes import Shape

MOST_COMPLAINTS = 8

By = Literal["", "rule", "turn"]
"""How an answer was put right: not at all, by a rule, or by the model itself when it was asked to."""

_SAID = {
    "missing": "缺少这个字段",
    "string_too_short": "不能为空",
    "too_short": "至少要有一项",
    "string_type": "应当是文字",
    "int_parsing": "应当是整数",
    "int_type": "应当是整数",
    "int_from_float": "应当是整数",
    "tuple_type": "应当是数组",
    "model_type": "应当是 JSON 对象",
    "model_attributes_type": "应当是 JSON 对象",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check."""

    text: str = ""
    """The answer as JSON of the shape; empty: it does not hold."""
    problem: str = ""
    """In Chinese, for the model."""
    by: By = ""


def check(shape: type[Shape], answer: str) -> Checked:
    """Check an answer."""
    problem = unlike = ""
    try:
        for value, plain in read(answer):
            for candidate, unwrapped in _meant(value):
                try:
                    held = shape.model_validate(candidate)
                except ValidationError as e:
                    if isinstance(candidate, dict) and shape.model_fields.keys() & candidate.keys():
                        problem = problem or _said(e)
                    unlike = unlike or _said(e)
                    continue
                return Checked(text=held.model_dump_json(), by="" if plain and not unwrapped else "rule")
    except Unreadable as e:
        # What was like the shape says more than what could not be read beside it, and that more than what was unlike it.
        problem = problem or str(e)
    return Checked(problem=problem or unlike)


def _meant(value: Any) -> Iterator[tuple[Any, bool]]:
    """The value, and what it holds if it is only a wrapper: `{"outline": {…}}`, `[{…}]`."""
    yield value, False
    inner = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None
    inner = value[0] if isinstance(value, list) and len(value) == 1 else inner
    if isinstance(inner, dict):
        yield inner, True


def _said(error: ValidationError) -> str:
    lines = []
    for one in error.errors(include_url=False)[:MOST_COMPLAINTS]:
        where = ".".join(map(str, one["loc"])) or "整个回答"
        what = _SAID.get(one["type"])
        if one["type"] == "literal_error":
            what = f"只能是 {one['ctx']['expected']}".replace(" or ", "、").replace(", ", "、")
        elif one["type"] in ("greater_than_equal", "less_than_equal"):
            bound = one["ctx"]
            what = f"不能小于 {bound['ge']}" if "ge" in bound else f"不能大于 {bound['le']}"
        lines.append(f"{where}：{what or one['msg']}")
    left = error.error_count() - len(lines)
    return "；".join(lines) + (f"；另有 {left} 处" if left > 0 else "")
