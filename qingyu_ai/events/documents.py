"""The events of documents. Whatever stores a document keeps its event with it, in the same transaction, as a `Note`; it is
published afterwards, by whoever finds it (`services/rag/telling.py`). So a change is told once, however often its job runs, and
also if its call was cancelled, or its worker lost, a moment after the change.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from qingyu_ai import routes
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import events_pb2 as events

from . import kinds
from .deriving import Told

SERVICE = "rag"


class Note(NamedTuple):
    """An event that is kept with the change that it tells of."""

    event: str
    """Its name: `document_indexed` or `document_deleted`."""
    data: bytes
    """The message."""


def indexed(call: Call, document_id: str, content_type: str, chunks: int) -> Note:
    """A version of a document is stored."""
    message = events.DocumentIndexed(
        at_unix_ms=int(time.time() * 1000),
        call=_about(call, routes.INDEX_DOCUMENT.method),
        document_id=document_id,
        content_type=content_type,
        chunks=chunks,
        submitted=_submission(call),
    )
    return Note(kinds.DOCUMENT_INDEXED.name, message.SerializeToString())


def deleted(call: Call, document_id: str) -> Note:
    """A document is removed."""
    message = events.DocumentDeleted(
        at_unix_ms=int(time.time() * 1000),
        call=_about(call, routes.DELETE_DOCUMENT.method),
        document_id=document_id,
        submitted=_submission(call),
    )
    return Note(kinds.DOCUMENT_DELETED.name, message.SerializeToString())


def told(note: Note) -> Told:
    """The event, under an id that is a function of the change: the call, and which of its submissions it was.

    Raises:
        KeyError, DecodeError: it is of a release that wrote something else.
    """
    kind = kinds.BY_NAME[note.event]
    message = kind.message.FromString(note.data)
    assert isinstance(message, events.DocumentIndexed | events.DocumentDeleted)
    submitted = message.submitted
    id = f"{message.call.id}.{submitted.queue}.{submitted.sequence}"
    return Told(kind, id, message, message.at_unix_ms)


def _about(call: Call, method: str) -> events.Call:
    return events.Call(
        id=call.id,
        epoch=call.epoch,
        traceparent=call.traceparent,
        user=call.user,
        project=call.project,
        service=SERVICE,
        method=method,
        request_id=call.request_id,
    )


def _submission(call: Call) -> events.Submission:
    return events.Submission(queue=call.submitted.queue, sequence=call.submitted.sequence)
