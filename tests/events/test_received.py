"""What is made of an event's data, whichever release wrote it."""

from __future__ import annotations

from typing import cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.contract import events_pb2
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events.kinds import KINDS, Kind
from qingyu_ai.events.received import DATACLASSES, read

LEAST = {"ce-id": "1", "ce-source": "/s", "ce-specversion": "1.0"}

TYPE_NAMES = {FieldDescriptor.CPPTYPE_STRING: "string", FieldDescriptor.CPPTYPE_BOOL: "bool"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_dataclass_is_what_betterproto2_would_read(kind: Kind) -> None:
    """It is built from protobuf's message, because that takes a seventh of the time."""
    message = filled(kind.message)
    for data in (message.SerializeToString(), b""):
        event = read("s", data, {**LEAST, "ce-type": kind.type}, 1, 1)
        assert event.data == DATACLASSES[kind.type].parse(data)
        assert not isinstance(event.data, bytes)
        assert bytes(event.data) == data


def filled(message: type[Message]) -> Message:
    """A message with something in every field."""
    made = message()
    for field in made.DESCRIPTOR.fields:
        if field.message_type is not None:
            getattr(made, field.name).CopyFrom(filled(GetMessageClass(cast(Descriptor, field.message_type))))
        else:
            setattr(made, field.name, {"string": "青羽", "bool": True}.get(TYPE_NAMES.get(field.cpp_type, ""), 7))
    return made


def test_field_of_a_later_release_is_kept() -> None:
    data = events_pb2.CallStarted(worker="w", call=events_pb2.Call(id="c")).SerializeToString()
    for newer in (
        data + b"\x98\x06\x01",
        b"\x12\x03\x98\x06\x01" + b"\x1a\x01w",
    ):  # field 99, outside and inside `call`
        event = read("s", newer, {**LEAST, "ce-type": "qingyu.ai.events.v1.CallStarted"}, 1, 1)
        assert isinstance(event.data, v1.CallStarted)
        assert event.data.worker == "w"
        assert bytes(event.data) == newer


@pytest.mark.parametrize(
    "newer",
    [b"\x28\x07", b"\x1d\xc7\x0c\xbd\x39", b"\x9b\x06\x08\x01\x9c\x06", b"\x9a\x06\x05ab"],
    ids=["a number", "another wire type", "a group", "cut"],
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_later_release_has_written_is_read_right_or_handed_over_raw(kind: Kind, newer: bytes) -> None:
    """An error here would come again with the event, each time."""
    message = filled(kind.message)
    for data in (message.SerializeToString() + newer, newer + message.SerializeToString()):
        event = read("s", data, {**LEAST, "ce-type": kind.type}, 1, 1)
        if isinstance(event.data, bytes):
            assert event.data == data
        else:
            again, sent = kind.message.FromString(bytes(event.data)), kind.message.FromString(data)
            again.DiscardUnknownFields()
            sent.DiscardUnknownFields()
            assert again == sent


@given(st.sampled_from(KINDS), st.binary(max_size=30), st.integers(0, 200))
def test_nothing_that_is_in_an_event_ends_a_subscription(kind: Kind, put: bytes, at: int) -> None:
    data = filled(kind.message).SerializeToString()
    read("s", data[:at] + put + data[at:], {**LEAST, "ce-type": kind.type}, 1, 1)
