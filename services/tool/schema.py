"""The JSON schema of a parameter model, as models that call functions understand it: no references, no titles."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from .errors import DefinitionError

Schema = dict[str, Any]


def schema_of(model: type[BaseModel]) -> Schema:
    """Write the schema of a model.

    Raises:
        DefinitionError: it refers to itself, accepts unknown names, or leaves a parameter without a description.
    """
    raw = model.model_json_schema()
    schema: Schema = _plain(raw, raw.get("$defs", {}), ())
    schema.setdefault("properties", {})
    schema.pop("description", None)  # the tool's own description says it
    _check(schema, model.__name__)
    return schema


def digest_of(name: str, schema: Schema) -> str:
    """Compute the SHA-256 of a name and a schema, in hex; the order of keys does not count."""
    canonical = json.dumps([name, schema], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def type_of(schema: Schema) -> str:
    """Name the type of a value in JSON Schema's words; of a value that may be null, the other one."""
    for choice in (schema, *schema.get("anyOf", ())):
        kind = choice.get("type")
        if isinstance(kind, str) and kind != "null":
            return kind
    if isinstance(schema.get("enum"), list) or "const" in schema:
        return "string"
    return "object"


def _plain(node: Any, definitions: Schema, inside: tuple[str, ...], *, names: bool = False) -> Any:
    """Copy a schema, with references replaced by what they refer to.

    Args:
        inside: the references that are being replaced.
        names: the keys of this object are names of parameters, not words of JSON Schema.
    """
    if isinstance(node, list):
        return [_plain(one, definitions, inside) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = str(node["$ref"]).removeprefix("#/$defs/")
        if name in inside:
            raise DefinitionError(f"The parameter model {name} refers to itself; a schema without references cannot")
        node = {**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}}
        inside = (*inside, name)
    return {
        key: _plain(value, definitions, inside, names=key == "properties" and not names)
        for key, value in node.items()
        if names or key not in ("$defs", "title", "discriminator")
    }


def _check(schema: Schema, where: str) -> None:
    for name, value in schema.get("properties", {}).items():
        if not value.get("description"):
            raise DefinitionError(f"{where}.{name} has no description; write it with Field(description=…)")
    if "properties" in schema and schema.get("additionalProperties") is not False:
        raise DefinitionError(f"{where} accepts unknown names; derive it from services.tool.definition.Parameters")
    nested = [*schema.get("properties", {}).items(), ("items", schema.get("items", {}))]
    nested += [(f"choice {i + 1}", choice) for i, choice in enumerate(schema.get("anyOf", ()))]
    for name, value in nested:
        if isinstance(value, dict) and value:
            _check(value, f"{where}.{name}")
