"""An event as a subscriber gets it: its CloudEvents attributes, and its data as a dataclass."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, TypeAlias

import structlog
from google.protobuf.message import DecodeError

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


def _typed(attributes: Attributes, data: bytes) -> Data | bytes:
    dataclass = DATACLASSES.get(attributes.type)
    if dataclass is None:
        return data
    try:
        # betterproto2 takes what is cut for whole (decision record 0001), so protobuf looks first.
        BY_TYPE[attributes.type].message.FromString(data)
        return dataclass.parse(data)
    except (DecodeError, ValueError) as e:
        log.warning("event_unreadable", id=attributes.id, type=attributes.type, error=str(e))
        return data
