"""The parameters of a call, checked against what is checked of a server's schema (`schemas.checkable`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from services.tool.complaints import MOST_VIOLATIONS, accepted, path_name, shown, unknown, unreadable
from services.tool.errors import InvalidParameters, Violation
from services.tool.schema import Schema

from .schemas import BOUNDS, COUNTS

Path = tuple[int | str, ...]


def read(tool: str, schema: Schema, text: str) -> dict[str, Any]:
    """Check the JSON text of a call's parameters. An empty text is an empty object.

    Args:
        schema: what is checked.

    Raises:
        InvalidParameters: with a violation for each parameter that does not hold, the first eight.
    """
    text = text.strip() or "{}"
    if problem := unreadable(text):
        raise InvalidParameters(tool, (Violation("", *problem),))
    asked: dict[str, Any] = json.loads(text)
    root = {**schema, "type": "object"}
    if found := tuple(islice(_violations(asked, root, (), root), MOST_VIOLATIONS)):
        raise InvalidParameters(tool, found)
    return asked


def _violations(value: Any, schema: Schema, path: Path, root: Schema) -> Iterator[Violation]:
    if choices := schema.get("anyOf"):
        if not any(next(_violations(value, one, path, root), None) is None for one in choices):
            yield _wrong(value, schema, path)
        return
    if not _is(value, schema.get("type")) or not _is_in_bounds(value, schema):
        yield _wrong(value, schema, path)
        return
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                english, chinese = accepted(properties.get(name, {}))
                full = path_name((*path, name))
                yield Violation(full, f"{full} is missing; it must be {english}", f"缺少参数 {full}；应为{chinese}")
        for name, inner in value.items():
            if name in properties:
                yield from _violations(inner, properties[name], (*path, name), root)
            elif schema.get("additionalProperties") is False:
                yield Violation(path_name((*path, name)), *unknown((*path, name), root))
    elif isinstance(value, list) and "items" in schema:
        for i, inner in enumerate(value):
            yield from _violations(inner, schema["items"], (*path, i), root)


def _wrong(value: Any, schema: Schema, path: Path) -> Violation:
    name = path_name(path)
    english, chinese = accepted(schema)
    told = shown(value)
    return Violation(name, f"{name} is {told}; it must be {english}", f"{name} 的值为 {told}；应为{chinese}")


def _is(value: Any, kind: str | None) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "integer":  # JSON Schema counts 1.0 as one
            return _is_number(value) and (isinstance(value, int) or value.is_integer())
        case "number":
            return _is_number(value)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "null":
            return value is None
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_in_bounds(value: Any, schema: Schema) -> bool:
    choices = schema.get("enum")
    if choices is not None and not any(
        one == value and isinstance(one, bool) == isinstance(value, bool) for one in choices
    ):
        return False
    if _is_number(value):
        minimum, maximum, above, below = (schema.get(word) for word in BOUNDS)
        return (
            (minimum is None or value >= minimum)
            and (maximum is None or value <= maximum)
            and (above is None or value > above)
            and (below is None or value < below)
        )
    if isinstance(value, (str, list)):
        low, high = (schema.get(word) for word in (COUNTS[:2] if isinstance(value, str) else COUNTS[2:]))
        return (low is None or len(value) >= low) and (high is None or len(value) <= high)
    return True
