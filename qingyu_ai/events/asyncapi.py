"""The events as an AsyncAPI 3 document, made of the table and of the compiled .proto file.

    python -m qingyu_ai.events.asyncapi docs/asyncapi.json

Data is protobuf; its schema is given as the .proto file has it, and as JSON Schema of its proto3 JSON form, for tools that know
only that one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from qingyu_ai.bus import subjects, topology
from qingyu_ai.contract import events_pb2

from .cloudevents import CONTENT_TYPE, MESSAGE_ID, SPEC_VERSION
from .kinds import KINDS, Kind

VERSION = "1.0.0"
"""Of the events: the last number grows with what is added."""

NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
}
WIDE = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


def document() -> dict[str, Any]:
    """The document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "AI events",
            "version": VERSION,
            "description": "What happens to calls, documents and workers of the AI backend (docs/events.md).",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": f"JetStream, stream {topology.EVENTS}.",
            }
        },
        "channels": {kind.name: _channel(kind) for kind in KINDS},
        "operations": {
            f"receive_{kind.name}": {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{kind.name}"},
                "summary": kind.what,
            }
            for kind in KINDS
        },
        "components": {
            "messages": {kind.message.DESCRIPTOR.name: _message(kind) for kind in KINDS},
            "schemas": {
                name: _schema(descriptor)
                for name, descriptor in sorted(events_pb2.DESCRIPTOR.message_types_by_name.items())
            },
        },
    }


def _channel(kind: Kind) -> dict[str, Any]:
    return {
        "address": subjects.event("{service}", kind.name, "{project}"),
        "description": f"{kind.what} {'Never shed' if kind.kept else 'May be shed'}.",
        "messages": {kind.message.DESCRIPTOR.name: {"$ref": f"#/components/messages/{kind.message.DESCRIPTOR.name}"}},
        "parameters": {
            "service": {"enum": list(kind.services), "description": "The kind of worker."},
            "project": {
                "description": f"`{subjects.NO_PROJECT}`, or the first 32 hexadecimal digits of the SHA-256 of the project id."
            },
        },
    }


def _message(kind: Kind) -> dict[str, Any]:
    return {
        "name": kind.type,
        "contentType": CONTENT_TYPE,
        "summary": kind.what,
        "headers": _headers(kind),
        "payload": {"$ref": f"#/components/schemas/{kind.message.DESCRIPTOR.name}"},
    }


def _headers(kind: Kind) -> dict[str, Any]:
    text = {"type": "string"}
    properties: dict[str, Any] = {
        "ce-id": {**text, "description": "With ce-source it names the event. An event may come more than once."},
        "ce-source": {"type": "string", "enum": [f"/qingyu-ai/{service}" for service in kind.services]},
        "ce-type": {"const": kind.type},
        "ce-specversion": {"const": SPEC_VERSION},
        "ce-time": {**text, "format": "date-time"},
        "ce-subject": {**text, "description": "The call id, or the worker's token."},
        "ce-datacontenttype": {"const": CONTENT_TYPE},
        "ce-traceparent": {**text, "description": "W3C trace context of the caller, if it sent one."},
        "content-type": {"const": CONTENT_TYPE},
    }
    if kind.unique:
        properties[MESSAGE_ID] = {**text, "description": "As ce-id: within two minutes the stream stores an id once."}
    needed = [name for name in properties if name not in ("ce-traceparent", MESSAGE_ID)]
    return {"type": "object", "properties": properties, "required": needed}


def _schema(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "type": "object",
        "x-protobuf": descriptor.full_name,
        "properties": {field.name: {**_field(field), "x-protobuf-number": field.number} for field in descriptor.fields},
    }


def _field(field: FieldDescriptor) -> dict[str, Any]:
    if field.message_type is not None:
        return {"$ref": f"#/components/schemas/{field.message_type.name}"}
    if field.cpp_type in WIDE:
        return {"type": "string", "format": "int64"}  # as proto3's JSON has it
    if field.cpp_type in NUMBERS:
        return {"type": "integer"}
    return {"type": "boolean" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "string"}


def text() -> str:
    """The document as it is committed."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str]) -> int:
    """Write the document into the file that is named."""
    if len(argv) != 1:
        sys.stderr.write("python -m qingyu_ai.events.asyncapi docs/asyncapi.json\n")
        return 2
    Path(argv[0]).write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
