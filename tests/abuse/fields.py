"""Every text field of a request, however deep, and a copy of the request that has another text there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Put = Callable[[Any, str], None]
"""Puts a text into a message of the type."""


def text_fields(message: Message) -> Iterator[tuple[str, Put]]:
    """The fields of a message's type that hold text: their paths, and how one is set."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    for field in fields:
        name = field.name
        if _is_map(field):
            yield f"{name}.key", lambda m, text, name=name: getattr(m, name).update({text: "v"})  # type: ignore[misc]
            yield f"{name}.value", lambda m, text, name=name: getattr(m, name).update({"k": text})  # type: ignore[misc]
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            yield f"{name}[]", lambda m, text, name=name: getattr(m, name).append(text)  # type: ignore[misc]
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield name, lambda m, text, name=name: setattr(m, name, text)  # type: ignore[misc]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _nested(message, field)


def _nested(message: Message, field: FieldDescriptor) -> Iterator[tuple[str, Put]]:
    name = field.name
    if field.is_repeated:
        inner: Any = type(message)()
        for path, put in text_fields(getattr(inner, name).add()):

            def into_first(m: Any, text: str, name: str = name, put: Put = put) -> None:
                entries = getattr(m, name)
                put(entries[0] if entries else entries.add(), text)

            yield f"{name}[].{path}", into_first
        return
    for path, put in text_fields(getattr(type(message)(), name)):

        def into(m: Any, text: str, name: str = name, put: Put = put) -> None:
            put(getattr(m, name), text)

        yield f"{name}.{path}", into


def with_text(message: Any, put: Put, text: str) -> Any:
    """A copy of a request with this text in one field."""
    copy = type(message)()
    copy.CopyFrom(message)
    put(copy, text)
    return copy


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
