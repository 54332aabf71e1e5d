"""The events that there are: one row for each. docs/events.md and docs/asyncapi.json follow from this table."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from qingyu_ai.bus import subjects
from qingyu_ai.contract import events_pb2 as events

CALL_SERVICES = ("chat", "agent", "rag", "tool")
JOB_SERVICES = ("chat", "agent", "rag")


@dataclass(frozen=True, slots=True)
class Kind:
    """One event."""

    name: str
    """Its token in subjects."""
    message: type[Message]
    """What its data is."""
    services: tuple[str, ...]
    """The kinds of worker that it can be about."""
    what: str
    """For a reader of the AsyncAPI document."""
    kept: bool = False
    """It follows from a record, and is never shed."""
    once: bool = False
    """Not kept, and stored once all the same: several may tell it."""

    @property
    def type(self) -> str:
        """The CloudEvents type."""
        return str(self.message.DESCRIPTOR.full_name)

    @property
    def unique(self) -> bool:
        """Whether it has a message id, so that the stream stores one of several."""
        return self.kept or self.once

    def subject(self, service: str, project: str = "") -> str:
        """Where it is published.

        Args:
            project: its id; empty: none.
        """
        return subjects.event(service, self.name, subjects.project_token(project))


# fmt: off
ACCEPTED = Kind("accepted", events.CallAccepted, JOB_SERVICES, "A job is stored: it will be run to an end, or decided.")
STARTED = Kind("started", events.CallStarted, JOB_SERVICES, "A worker has begun with a job, or taken it over.")
FIRST_TOKEN = Kind("first_token", events.FirstToken, ("chat", "agent"), "The first text of an answer is said.")
TOOL_CALLED = Kind("tool_called", events.ToolCalled, ("agent",), "An agent has the result of a tool.")
COMPLETED = Kind("completed", events.CallCompleted, CALL_SERVICES, "A call has its answer; with what it cost.", kept=True)
FAILED = Kind("failed", events.CallFailed, CALL_SERVICES, "A call ended with an error.", kept=True)
CANCELLED = Kind("cancelled", events.CallCancelled, CALL_SERVICES, "A caller withdrew its call.", kept=True)
DEAD_LETTERED = Kind(
    "dead_lettered", events.CallDeadLettered, JOB_SERVICES, "A call ended with an error, and its job is put aside.", kept=True)
DOCUMENT_INDEXED = Kind("document_indexed", events.DocumentIndexed, ("rag",), "A document can be found.", kept=True)
DOCUMENT_DELETED = Kind("document_deleted", events.DocumentDeleted, ("rag",), "A document is gone.", kept=True)
WORKER_UP = Kind("worker_up", events.WorkerUp, CALL_SERVICES, "A worker takes calls.", once=True)
WORKER_DRAINING = Kind("worker_draining", events.WorkerDraining, CALL_SERVICES, "A worker takes no more calls.", once=True)
WORKER_DOWN = Kind("worker_down", events.WorkerDown, CALL_SERVICES, "A worker is gone.", once=True)
# fmt: on

KINDS: tuple[Kind, ...] = (
    ACCEPTED,
    STARTED,
    FIRST_TOKEN,
    TOOL_CALLED,
    COMPLETED,
    FAILED,
    CANCELLED,
    DEAD_LETTERED,
    DOCUMENT_INDEXED,
    DOCUMENT_DELETED,
    WORKER_UP,
    WORKER_DRAINING,
    WORKER_DOWN,
)

BY_TYPE = {kind.type: kind for kind in KINDS}
BY_NAME = {kind.name: kind for kind in KINDS}
