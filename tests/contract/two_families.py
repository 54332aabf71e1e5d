"""Messages drawn as plain Python, and built in each of the two families of message classes.

Both are built apart from the same values: so neither can hide what the other misunderstands.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import betterproto2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from qingyu_ai.contract import ai_agent_pb2, bus_pb2, common_pb2, events_pb2, rag_pb2, tool_pb2
from qingyu_ai.contract.messages.message_pool import default_message_pool
from qingyu_ai.contract.messages.qingyu.ai import agent, common, rag, tool
from qingyu_ai.contract.messages.qingyu.ai.bus import v1 as bus
from qingyu_ai.contract.messages.qingyu.ai.events import v1 as events

Plain = Mapping[str, Any]
"""A message as field names and values; a message inside it is a Plain again. A field that is not there is not set."""

PROTOBUF = (common_pb2, ai_agent_pb2, rag_pb2, tool_pb2, bus_pb2, events_pb2)
BETTERPROTO2 = (common, agent, rag, tool, bus, events)

SCALARS: Mapping[int, SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    # Single precision, as on the wire: 0.1 would come back as 0.10000000149011612. No NaN, which equals nothing, and no
    # -0.0, which betterproto2 takes for the default and does not send.
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False).map(lambda value: value or 0.0),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}
"""The types that the contract uses; another one is a KeyError here until somebody says what to draw for it."""


def message_types() -> list[Descriptor]:
    """List the message types of all files, the nested ones too. Entries of maps are fields, not messages."""

    def walk(messages: Iterator[Descriptor]) -> Iterator[Descriptor]:
        for message in messages:
            if not message.GetOptions().map_entry:
                yield message
                yield from walk(iter(message.nested_types))

    tops = (message for module in PROTOBUF for message in module.DESCRIPTOR.message_types_by_name.values())
    return sorted(walk(tops), key=lambda kind: kind.full_name)


def values_of(kind: Descriptor) -> SearchStrategy[Plain]:
    """Draw a message: any of its fields, and at most one of each oneof."""
    # An `optional` field is the only one of a oneof that protoc made up.
    oneofs = [oneof.fields for oneof in kind.oneofs if len(oneof.fields) > 1]
    chosen = {field.name for fields in oneofs for field in fields}
    free = {field.name: value_of(field) for field in kind.fields if field.name not in chosen}
    parts: list[SearchStrategy[dict[str, Any]]] = [st.fixed_dictionaries({}, optional=free)]
    for fields in oneofs:
        parts.append(st.one_of(st.just({}), *(st.fixed_dictionaries({f.name: value_of(f)}) for f in fields)))
    return st.tuples(*parts).map(lambda drawn: {name: value for part in drawn for name, value in part.items()})


def value_of(field: FieldDescriptor) -> SearchStrategy[Any]:
    """Draw the value of a field."""
    entry = map_entry(field)
    if entry:
        keys, values = (value_of(entry.fields_by_name[name]) for name in ("key", "value"))
        return st.dictionaries(keys, values, max_size=3)
    return st.lists(one_of(field), max_size=3) if field.is_repeated else one_of(field)


def one_of(field: FieldDescriptor) -> SearchStrategy[Any]:
    """Draw one element of a field."""
    if field.message_type:
        return values_of(field.message_type)
    if field.enum_type:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return SCALARS[field.type]


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of a map's entries; None: the field is no map."""
    return field.message_type if field.message_type and field.message_type.GetOptions().map_entry else None


def protobuf(kind: Descriptor, values: Plain) -> Message:
    """Build the message in protobuf."""
    return GetMessageClass(kind)(**built(kind, values, protobuf))


def betterproto(kind: Descriptor, values: Plain) -> betterproto2.Message:
    """Build the message in betterproto2."""
    return dataclass_of(kind)(**built(kind, values, betterproto))


def built(kind: Descriptor, values: Plain, build: Callable[[Descriptor, Plain], Any]) -> dict[str, Any]:
    """Turn what is still plain into messages of one family."""
    arguments = dict(values)
    for name, value in values.items():
        field = kind.fields_by_name[name]
        if not field.message_type or map_entry(field):
            continue
        inner = field.message_type
        arguments[name] = [build(inner, item) for item in value] if field.is_repeated else build(inner, value)
    return arguments


def dataclass_of(kind: Descriptor) -> type[betterproto2.Message]:
    """Return the betterproto2 class of a message type."""
    found: type[betterproto2.Message] = default_message_pool.url_to_type[f"type.googleapis.com/{kind.full_name}"]
    return found


def canonical(kind: Descriptor, data: bytes) -> bytes:
    """Return the bytes in protobuf's deterministic form, in which the entries of a map have an order."""
    return GetMessageClass(kind).FromString(data).SerializeToString(deterministic=True)
