"""What is wrong with a setting, in a sentence: its variable, its value, and what is accepted there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

PREFIX = "QINGYU_"
LONGEST_VALUE = 80
"""Characters of a value that are shown."""

SECRET_NAMES = ("url", "key")
"""Values of settings whose names end like this are not shown: they may hold a password."""

_TYPES: dict[Any, str] = {
    bool: "true or false",
    str: "a text",
    SecretStr: "a text",
    Path: "a path",
}

Location = tuple[int | str, ...]
Model = type[BaseModel]


def env_name(path: Location) -> str:
    """Name the environment variable of a setting: `("bridge", "port")` → `QINGYU_BRIDGE__PORT`."""
    return PREFIX + "__".join(str(p).upper() for p in path)


def complaints(error: ValidationError, settings: Model) -> list[str]:
    """One sentence for each value that does not hold."""
    return [_complaint(e["type"], e["loc"], e["input"], e["msg"], settings) for e in error.errors(include_url=False)]


def unreadable(environ: Mapping[str, str], settings: Model) -> list[str]:
    """One sentence for each variable that stands for a list or a section and holds no JSON."""
    found = []
    for name, value in sorted(environ.items()):
        if not name.upper().startswith(PREFIX):
            continue
        path = tuple(name[len(PREFIX) :].lower().split("__"))
        annotation, metadata = _at(settings, path)
        if _is_section(annotation) or get_origin(annotation) in (tuple, list, dict):
            try:
                json.loads(value)
            except ValueError:
                found.append(_wrong(path, value, annotation, metadata))
    return found


def _complaint(kind: str, path: Location, value: object, message: str, settings: Model) -> str:
    if kind in ("extra_forbidden", "invalid_key"):
        return _unknown(path, settings)
    annotation, metadata = _at(settings, path)
    if kind == "value_error" or annotation is None:  # a rule of the settings' own, which speaks for itself
        return f"{_name(path).rstrip(',')}: {message.removeprefix('Value error, ')}"
    return _wrong(path, value, annotation, metadata)


def _unknown(path: Location, settings: Model) -> str:
    section = _at(settings, path[:-1])[0] if path[:-1] else settings
    names = list(section.model_fields) if _is_section(section) else []
    near = get_close_matches(str(path[-1]).lower(), names, n=1)
    hint = f"did you mean {env_name((*path[:-1], near[0]))}?" if near else f"there are {', '.join(names)}"
    return f"{env_name(path)} is no setting; {hint}"


def _wrong(path: Location, value: object, annotation: Any, metadata: Sequence[object]) -> str:
    accepted = _accepted(annotation, metadata, path)
    # A section or a dict may hold secrets under names of its own.
    nested = _is_section(annotation) or get_origin(annotation) is dict
    hidden = nested or annotation is SecretStr or str(path[-1]).lower().endswith(SECRET_NAMES)
    return f"{_name(path)} must be {accepted}" if hidden else f"{_name(path)} is {_shown(value)}; it must be {accepted}"


def _accepted(annotation: Any, metadata: Sequence[object], path: Location) -> str:
    if _is_section(annotation):
        example = env_name((*path, next(iter(annotation.model_fields))))
        return f"a section of settings; set them one by one, such as {example}"
    if get_origin(annotation) is Literal:
        *most, last = map(str, get_args(annotation))
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(annotation) in (tuple, list):
        return 'a list in brackets, such as ["one", "two"]'
    if get_origin(annotation) is dict:
        return 'names with values in braces, such as {"name": "value"}'
    if annotation in (int, float):
        return ("a whole number" if annotation is int else "a number") + _bounds(metadata)
    pattern = _limit(metadata, "pattern")
    return _TYPES.get(annotation, "another value") + (f" of the form {pattern}" if pattern else "")


def _bounds(metadata: Sequence[object]) -> str:
    low, above, high = (_limit(metadata, name) for name in ("ge", "gt", "le"))
    if above is not None:
        return f" above {above}"
    if low is None:
        return ""
    return f", at least {low}" if high is None else f" from {low} to {high}"


def _limit(metadata: Sequence[object], name: str) -> Any:
    return next((found for m in metadata if (found := getattr(m, name, None)) is not None), None)


def _name(path: Location) -> str:
    *section, last = path
    return f"{env_name(tuple(section))}, entry {last + 1}," if isinstance(last, int) else env_name(path)


def _shown(value: object) -> str:
    if value is None or value == "":
        return "empty"
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _at(settings: Model, path: Location) -> tuple[Any, Sequence[object]]:
    """The type of a setting and the limits of its value; (None, ()) where there is none."""
    annotation: Any = settings
    metadata: Sequence[object] = ()
    for name in path:
        if _is_section(annotation):
            field = annotation.model_fields.get(name)
            if field is None:
                return None, ()
            annotation, metadata = _without_none(field.annotation), field.metadata
        elif get_origin(annotation) in (tuple, list):
            annotation, metadata = get_args(annotation)[0], ()
        elif get_origin(annotation) is dict:
            annotation, metadata = get_args(annotation)[1], ()
        else:
            return None, ()
    return annotation, metadata


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return next(a for a in get_args(annotation) if a is not NoneType)
