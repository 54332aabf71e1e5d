"""A server's JSON schema: whether it can be passed on, and what of it is checked before the server is asked.

It is announced as it is. What is checked here is what can be said about a parameter in a sentence: names, types, choices,
bounds, and the same inside objects and lists. Forms of texts, and what compares parameters with each other, the server checks.
"""

from __future__ import annotations

import json
from typing import Any

from services.tool.registry import Parameter
from services.tool.schema import Schema, type_of

LARGEST = 32 * 1024
"""Bytes of a schema: it is announced again and again, and given to models."""

DEEPEST = 16
"""Schemas within schemas that are checked; further in the server checks."""

MOST_NODES = 2000
"""Schemas within one tool's that are checked: references can make a short text endless."""

COMBINING = ("allOf", "not", "if", "$dynamicRef")
"""Words that are left to the server."""

TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")

COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class UnfitSchema(Exception):
    """A schema that cannot be passed on. The message says why."""


def refuse_unfit(schema: Schema) -> None:
    """See that models and callers can be told a schema.

    Raises:
        UnfitSchema: its parameters are no object, it refers to other documents, it is too large, or it is no JSON.
    """
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError):
        raise UnfitSchema("its schema is no JSON") from None
    if size > LARGEST:
        raise UnfitSchema(f"its schema has {size} bytes; {LARGEST} are the most")
    if schema.get("type") != "object":
        raise UnfitSchema('its parameters are no object: its schema must have "type": "object"')
    if not isinstance(schema.get("properties", {}), dict):
        raise UnfitSchema('the "properties" of its schema are no object')
    if outside := _outside_reference(schema):
        raise UnfitSchema(f"its schema refers to another document, {outside}")


def _outside_reference(node: Any) -> str:
    """A reference to another document; empty: there is none."""
    left = [node]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            reference = one.get("$ref")
            if isinstance(reference, str) and not reference.startswith("#"):
                return reference[:200]
            left += one.values()
        elif isinstance(one, list):
            left += one
    return ""


def parameters_of(schema: Schema) -> tuple[Parameter, ...]:
    """The parameters, as the contract describes them."""
    checked = checkable(schema)
    raw = schema.get("properties", {})
    required = checked.get("required", ())
    return tuple(
        Parameter(
            name=name,
            type=type_of(value),
            description=_description(raw[name]),
            required=name in required,
            default_value=_default(raw[name]) if name not in required else "",
        )
        for name, value in checked["properties"].items()
    )


def _description(node: Any) -> str:
    said = node.get("description") or node.get("title") if isinstance(node, dict) else ""
    return said if isinstance(said, str) else ""


def _default(node: Any) -> str:
    return json.dumps(node["default"], ensure_ascii=False) if isinstance(node, dict) and "default" in node else ""


def checkable(schema: Schema) -> Schema:
    """Copy of a schema what is checked here, well-formed, with references replaced."""
    made = _Copy(schema).of(schema, ())
    made.setdefault("properties", {})
    return made


class _Copy:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._nodes = 0

    def of(self, node: Any, inside: tuple[str, ...], depth: int = 0) -> Schema:
        """What is checked of a schema; empty: nothing."""
        self._nodes += 1
        if not isinstance(node, dict) or depth > DEEPEST or self._nodes > MOST_NODES:
            return {}
        if "$ref" in node:
            name = str(node["$ref"])
            return {} if name in inside else self.of(self._at(name), (*inside, name), depth + 1)
        if any(word in node for word in COMBINING):
            node = {key: node[key] for key in ("type", "properties", "required") if key in node}
        kind = node.get("type")
        choices = node.get("anyOf", node.get("oneOf"))
        if isinstance(kind, list):
            choices = [{**node, "type": one} for one in kind]
        if isinstance(choices, list) and choices and depth:
            return {"anyOf": [self.of(one, inside, depth + 1) for one in choices]}
        made: Schema = {"type": kind} if isinstance(kind, str) and kind in TYPES else {}
        if "const" in node:
            made["enum"] = [node["const"]]
        elif isinstance(node.get("enum"), list) and node["enum"]:
            made["enum"] = node["enum"]
        made |= {key: node[key] for key in COUNTS if _is_number(node.get(key)) and node[key] >= 0}
        made |= {key: node[key] for key in BOUNDS if _is_number(node.get(key))}
        if isinstance(properties := node.get("properties"), dict):
            made["properties"] = {name: self.of(one, inside, depth + 1) for name, one in properties.items()}
        if isinstance(required := node.get("required"), list):
            made["required"] = [name for name in required if isinstance(name, str)]
        if node.get("additionalProperties") is False and not node.get("patternProperties"):
            made["additionalProperties"] = False
        if isinstance(items := node.get("items"), dict):
            made["items"] = self.of(items, inside, depth + 1)
        return made

    def _at(self, reference: str) -> Any:
        node: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            node = node.get(step) if isinstance(node, dict) else None
        return node


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
