"""An event as a line that a person reads, and as a line of JSON (CloudEvents JSON format 1.0) that a program reads."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from rich.text import Text

from qingyu_ai.contract import events_pb2
from qingyu_ai.events import Event
from qingyu_ai.events.cloudevents import SPEC_VERSION
from qingyu_ai.events.kinds import BY_TYPE

from .logline import is_shown, printable

STYLES = {
    "completed": "green",
    "document_indexed": "green",
    "worker_up": "green",
    "failed": "red",
    "dead_lettered": "bold red",
    "cancelled": "yellow",
    "worker_draining": "yellow",
    "worker_down": "yellow",
}
"""By event; the others are everyday."""

NO_TIME = "--.-- --:--:--.---"

LONGEST = 200
"""Characters of a value in a line for a person."""

CALL_DIGITS = 8
"""Of a call id: enough to tell the calls on one screen apart."""


def message_of(event: Event) -> Message | None:
    """The data of an event that was asked for raw; None: this release cannot read it."""
    kind = BY_TYPE.get(event.type)
    if kind is None or not isinstance(event.data, bytes):
        return None
    try:
        return kind.message.FromString(event.data)
    except DecodeError:
        return None


def as_json(event: Event) -> str:
    """One line of JSON."""
    attributes = event.attributes
    line: dict[str, Any] = {
        **attributes.extensions,
        "specversion": SPEC_VERSION,
        "id": attributes.id,
        "source": attributes.source,
        "type": attributes.type,
        "time": attributes.time,
        "subject": attributes.subject,
        "datacontenttype": attributes.content_type,
        "traceparent": attributes.traceparent,
        "sequence": str(event.sequence),
    }
    if not attributes.id:  # no CloudEvent: what there is to find it by
        line = {"natssubject": event.subject, "sequence": str(event.sequence)}
    line = {name: value for name, value in line.items() if value}
    message = message_of(event)
    if message is not None:
        # The data is shown as what it means; the bytes are in the stream.
        line["datacontenttype"] = "application/json"
        line["data"] = MessageToDict(message, preserving_proto_field_name=True)
    elif isinstance(event.data, bytes):
        line["data_base64"] = base64.b64encode(event.data).decode()
    # JSON leaves many characters as they are that terminals or line-wise readers obey.
    text = json.dumps(line, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if is_shown(c) else json.dumps(c)[1:-1] for c in text)


def as_line(event: Event) -> Text:
    """One line for a person, in local time."""
    parts = event.subject.split(".")
    service, name = (parts[3], parts[4]) if len(parts) == 6 else ("", "")
    text = Text.assemble(
        (f"{_clock(event)} ", "dim"),
        f"{printable(service):<6} ",
        (f"{printable(name):<16} ", STYLES.get(name, "")),
    )
    message = message_of(event)
    if message is None:
        size = len(event.data) if isinstance(event.data, bytes) else 0
        text.append(f"{printable(event.type or event.subject)}, {size} bytes that this release cannot read")
        return text
    for word, value in _facts(message):
        text.append(f" {word}=", "dim")
        text.append(printable(value if len(value) <= LONGEST else f"{value[:LONGEST]}…"))
    return text


def _clock(event: Event) -> str:
    at = event.time
    if at is not None:
        with contextlib.suppress(OverflowError, ValueError):  # of the first or the last day that there is
            at = at.astimezone()
            return f"{at:%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
    return NO_TIME


def _facts(message: Any) -> list[tuple[str, str]]:
    """What is worth a reader's while, as (name, value)."""
    facts: list[tuple[str, str]] = []
    fields = message.DESCRIPTOR.fields_by_name
    if "call" in fields:
        call = message.call
        facts += [
            ("call", call.id[:CALL_DIGITS]),
            ("method", f"{call.method}/{call.target}" if call.target else call.method),
            ("user", call.user),
            ("project", call.project),
            ("request", call.request_id),
        ]
    if "worker" in fields:
        worker = message.worker
        facts.append(("worker", worker.id if isinstance(worker, events_pb2.Worker) else worker))
    if "usage" in fields and message.HasField("usage"):
        usage = message.usage
        about = "~" if usage.estimated else ""
        facts += [("model", usage.model), ("tokens", f"{about}{usage.prompt_tokens}+{usage.completion_tokens}")]
    if "failure" in fields:
        facts += [("code", str(message.failure.code)), ("reason", message.failure.reason)]
    shown = {"at_unix_ms", "call", "worker", "usage", "failure", "deadline_unix_ms"}
    for name, field in fields.items():
        value = getattr(message, name)
        if name in shown or not value or field.type == field.TYPE_MESSAGE:
            continue
        facts.append((name.removesuffix("_ms"), f"{value / 1000:.2f}s" if name.endswith("_ms") else str(value)))
    return [(word, value) for word, value in facts if value]
