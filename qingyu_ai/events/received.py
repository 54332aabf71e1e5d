"""An event as a subscriber gets it: its CloudEvents attributes, and its data as a dataclass."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias, cast

import structlog
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from qingyu_ai.bus.transport import Headers
from qingyu_ai.contract.messages.qingyu.ai.events import v1

from .cloudevents import Attributes, NoCloudEvent, decode
from .kinds import BY_TYPE

log = structlog.get_logger(__name__)

Data: TypeAlias = (
    v1.CallAccepted
    | v1.CallStarted
    | v1.FirstToken
    | v1.ToolCalled
    | v1.CallCompleted
    | v1.CallFailed
    | v1.CallCancelled
    | v1.CallDeadLettered
    | v1.DocumentIndexed
    | v1.DocumentDeleted
    | v1.WorkerUp
    | v1.WorkerDraining
    | v1.WorkerDown
)

DATACLASSES: dict[str, type[Data]] = {type: getattr(v1, type.rpartition(".")[2]) for type in BY_TYPE}
"""By CloudEvents type."""

NOTHING_SAID = Attributes(id="", source="", type="")


class Event(NamedTuple):
    """One event. (A tuple, because twenty thousand of them may come in a second.)"""

    attributes: Attributes
    """Its id is what to compare: an event may come more than once."""
    data: Data | bytes
    """Bytes: an event that this release does not know, or one that was asked for raw."""
    subject: str
    """Of the message: `ai.events.v1.<service>.<event>.<project token>`."""
    sequence: int
    """In the stream."""
    delivery: int
    """Counts from 1. Higher: it was given to somebody before who did not acknowledge it."""

    @property
    def id(self) -> str:
        """The CloudEvents id."""
        return self.attributes.id

    @property
    def type(self) -> str:
        """The CloudEvents type: the full name of the message that the data is."""
        return self.attributes.type

    @property
    def name(self) -> str:
        """What happened, as its subject names it: `completed`."""
        return self.subject.split(".")[4] if self.subject.count(".") == 5 else ""

    @property
    def time(self) -> datetime | None:
        """When it happened; None: it does not say."""
        try:
            return datetime.fromisoformat(self.attributes.time)
        except ValueError:
            return None


def read(
    subject: str, data: bytes, headers: Headers | None, sequence: int, delivery: int, *, typed: bool = True
) -> Event:
    """Read a message. What cannot be read is handed over as it came: an event must not be lost because it is new, or wrong.

    Args:
        typed: read the data, too.
    """
    try:
        attributes = decode(headers)
    except NoCloudEvent as e:
        log.warning("no_cloud_event", subject=subject, sequence=sequence, error=str(e))
        return Event(NOTHING_SAID, data, subject, sequence, delivery)
    return Event(attributes, _typed(attributes, data) if typed else data, subject, sequence, delivery)


@functools.cache
def _fields(descriptor: Descriptor) -> tuple[tuple[str, type[Any] | None], ...]:
    """Names of fields, and the dataclasses of those that are messages."""
    return tuple((f.name, getattr(v1, f.message_type.name) if f.message_type else None) for f in descriptor.fields)


def _has_unknown(message: Message) -> bool:
    """Whether a later release has written something that this one would forget."""
    if len(UnknownFieldSet(message)):
        return True
    return any(_has_unknown(value) for field, value in message.ListFields() if field.message_type)


def _build(message: Message, dataclass: type[Any]) -> Any:
    """A dataclass with what a message has."""
    values: dict[str, Any] = {}
    for name, part in _fields(message.DESCRIPTOR):
        if part is None:
            values[name] = getattr(message, name)
        elif message.HasField(name):
            values[name] = _build(getattr(message, name), part)
    return dataclass(**values)


def _typed(attributes: Attributes, data: bytes) -> Data | bytes:
    dataclass = DATACLASSES.get(attributes.type)
    if dataclass is None:
        return data
    try:
        # betterproto2 takes what is cut for whole (decision record 0001), and takes seven times as long.
        message = BY_TYPE[attributes.type].message.FromString(data)
        built = cast(Data, _build(message, dataclass))
    except (DecodeError, ValueError) as e:
        log.warning("event_unreadable", id=attributes.id, type=attributes.type, error=str(e))
        return data
    return _with_unknown(built, data, attributes) if _has_unknown(message) else built


def _with_unknown(built: Data, data: bytes, attributes: Attributes) -> Data | bytes:
    """Keep what a later release has written besides; where betterproto2 reads it otherwise than protobuf, all as it came."""
    try:
        parsed = type(built).parse(data)
    except Exception as e:  # EOFError, KeyError and others: it names no error for wire types that it does not expect
        log.warning("event_unreadable", id=attributes.id, type=attributes.type, error=str(e))
        return data
    return parsed if parsed == built else data
