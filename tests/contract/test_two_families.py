"""protobuf's messages and betterproto2's mean the same bytes, and where the two differ is known."""

import betterproto2
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from pydantic import ValidationError

from qingyu_ai.contract import ai_agent_pb2, bus_pb2
from qingyu_ai.contract.messages.qingyu.ai import agent
from qingyu_ai.contract.messages.qingyu.ai.bus import v1 as bus

from .two_families import BETTERPROTO2, betterproto, canonical, dataclass_of, message_types, protobuf, values_of

TYPES = message_types()

every_message = pytest.mark.parametrize("kind", TYPES, ids=[kind.full_name for kind in TYPES])
many = settings(max_examples=50, deadline=None)  # no deadline: the first example pays for pydantic's validators


def test_both_families_have_the_same_messages() -> None:
    names = [
        name
        for module in BETTERPROTO2
        for name in module.__all__
        if issubclass(getattr(module, name), betterproto2.Message)
    ]
    assert len(names) == len(TYPES)
    assert len({dataclass_of(kind) for kind in TYPES}) == len(TYPES)


@every_message
@given(data=st.data())
@many
def test_what_protobuf_writes_passes_through_betterproto2_unchanged(kind: Descriptor, data: DataObject) -> None:
    values = data.draw(values_of(kind))
    message = protobuf(kind, values)
    dataclass = dataclass_of(kind).parse(message.SerializeToString(deterministic=True))
    assert dataclass == betterproto(kind, values)
    again = GetMessageClass(kind).FromString(bytes(dataclass))
    assert again == message
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@every_message
@given(data=st.data())
@many
def test_what_betterproto2_writes_passes_through_protobuf_unchanged(kind: Descriptor, data: DataObject) -> None:
    values = data.draw(values_of(kind))
    dataclass = betterproto(kind, values)
    message = GetMessageClass(kind).FromString(bytes(dataclass))
    assert message == protobuf(kind, values)
    again = dataclass_of(kind).parse(message.SerializeToString(deterministic=True))
    assert again == dataclass
    assert canonical(kind, bytes(again)) == canonical(kind, bytes(dataclass))


def test_a_field_of_a_newer_contract_survives_betterproto2() -> None:
    newer = ai_agent_pb2.AgentStats(tokens_used=3).SerializeToString() + b"\x98\x06\x01"  # field 99, varint 1
    assert bytes(agent.AgentStats.parse(newer)) == newer


def test_an_enum_value_of_a_newer_contract_survives_betterproto2() -> None:
    newer = bus_pb2.Record(state=7).SerializeToString()  # type: ignore[arg-type]  # no State is 7 yet
    assert bytes(bus.Record.parse(newer)) == newer


def test_betterproto2_refuses_two_of_a_oneof() -> None:
    with pytest.raises(ValidationError, match="more than one value"):
        bus.Frame(beat=bus.Beat(), fence=bus.Fence())


@pytest.mark.parametrize("cut", [2, 3, 4, 5])
def test_betterproto2_accepts_truncated_bytes_that_protobuf_refuses(cut: int) -> None:
    """The reason why it never parses untrusted input. When this fails, ADR 0001 may be looked at again."""
    whole = ai_agent_pb2.ChatStreamChunk(delta="12345").SerializeToString()
    assert agent.ChatStreamChunk.parse(whole[:cut]).delta == "12345"[: cut - 2]
    with pytest.raises(DecodeError):
        ai_agent_pb2.ChatStreamChunk.FromString(whole[:cut])


@pytest.mark.parametrize(
    ("malformed", "error"),
    [
        (b"\x08\x01", ValidationError),  # a string sent as a varint
        (b"\x18\x01", AttributeError),  # a map sent as a varint
        (b"\x0a\x01\xff", UnicodeDecodeError),
        (b"\x0a", EOFError),
    ],
)
def test_betterproto2_has_no_error_of_its_own_for_malformed_bytes(malformed: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        agent.AgentRequest.parse(malformed)


def test_betterproto2_keeps_the_double_it_was_builtuntil_it_is_parsed_back() -> None:
    built = agent.AgentOptions(temperature=0.1)
    parsed = agent.AgentOptions.parse(bytes(built))
    assert parsed != built
    assert bytes(parsed) == bytes(built)


def test_betterproto2_does_not_send_a_negative_zero() -> None:
    assert bytes(agent.AgentOptions(temperature=-0.0)) == b""
    assert ai_agent_pb2.AgentOptions(temperature=-0.0).SerializeToString() != b""
