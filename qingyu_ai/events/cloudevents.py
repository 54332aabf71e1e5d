"""CloudEvents 1.0 on NATS messages in binary mode: attributes as headers, the data as the body. Pure.

The binding is the NATS Protocol Binding for CloudEvents, 1.0.3-wip (cloudevents/spec at 83a8bd91): the last released one, 1.0.2,
knows no headers (decision record 0015). Each attribute is a header `ce-<name>`, its value percent-encoded (section 3.1.3).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from qingyu_ai.bus.headers import VERSION_LINE

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/protobuf"

MESSAGE_ID = "Nats-Msg-Id"
"""JetStream's own: of two messages with one id, within two minutes, it stores the first."""

KNOWN = ("id", "source", "type", "specversion", "time", "subject", "datacontenttype", "traceparent")

_ENCODED = re.compile(r'[^\x21-\x7e]|["%]')


class NoCloudEvent(ValueError):
    """A message lacks what makes it a CloudEvent. The text names the attribute."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """The context attributes of an event."""

    id: str
    source: str
    type: str
    time: str = ""
    """RFC 3339."""
    subject: str = ""
    """What it is about: a call id, or a worker's token."""
    traceparent: str = ""
    """Extension "Distributed Tracing"."""
    content_type: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """What this release does not know."""


def encode(id: str, source: str, type: str, at_ms: int, subject: str, traceparent: str, *, unique: bool) -> bytes:
    """Write a header block. All values but the trace context are ours, and need no encoding.

    Args:
        at_ms: unix milliseconds.
        unique: JetStream is to store one message of this id.
    """
    trace = f"ce-traceparent: {quoted(traceparent)}\r\n" if traceparent else ""
    only = f"{MESSAGE_ID}: {id}\r\n" if unique else ""
    return (
        f"{VERSION_LINE}\r\nce-id: {id}\r\nce-source: {source}\r\nce-type: {type}\r\nce-specversion: {SPEC_VERSION}\r\n"
        f"ce-time: {rfc3339(at_ms)}\r\nce-subject: {subject}\r\nce-datacontenttype: {CONTENT_TYPE}\r\n"
        f"content-type: {CONTENT_TYPE}\r\n{trace}{only}\r\n"
    ).encode()


def decode(headers: Mapping[str, str] | None) -> Attributes:
    """Read the headers of a message.

    Raises:
        NoCloudEvent: an attribute that every event has is missing, or it is of another major version.
    """
    found = {name[3:].lower(): value for name, value in (headers or {}).items() if name[:3].lower() == "ce-"}
    for name in ("id", "source", "type", "specversion"):
        if not found.get(name):
            raise NoCloudEvent(f"ce-{name} is missing")
    if not found["specversion"].startswith("1."):
        raise NoCloudEvent(f"ce-specversion is {found['specversion']}")
    values = {name: _unquoted(value) for name, value in found.items()}
    return Attributes(
        id=values["id"],
        source=values["source"],
        type=values["type"],
        time=values.get("time", ""),
        subject=values.get("subject", ""),
        traceparent=values.get("traceparent", ""),
        content_type=values.get("datacontenttype", ""),
        extensions={name: value for name, value in values.items() if name not in KNOWN},
    )


def quoted(value: str) -> str:
    """Percent-encode what section 3.1.3.2 says: space, double quote, percent, and all but printable ASCII."""
    if value.isascii() and value.replace("-", "").isalnum():  # as most are
        return value
    return _ENCODED.sub(lambda c: "".join([f"%{byte:02X}" for byte in c[0].encode()]), value)


def _unquoted(value: str) -> str:
    if value[:1] == '"' == value[-1:] and len(value) > 1:
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if "%" not in value:
        return value
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise NoCloudEvent("a header is no UTF-8") from None


_second: tuple[int, str] = (-1, "")


def rfc3339(at_ms: int) -> str:
    """Write unix milliseconds as CloudEvents writes a time."""
    global _second
    seconds, rest = divmod(at_ms, 1000)
    if _second[0] != seconds:  # most events of a process are of the same second as the one before
        _second = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{_second[1]}.{rest:03d}Z"
