"""What the bus tells of what happens, to whoever wants to pass it on. `qingyu_ai.events` does; the bus knows nothing of it.

Telling must not wait, fail or cost much, with one exception: how a call was decided follows from its record, and the job is not
acknowledged before that is told (docs/bus-protocol.md, "Completion").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from qingyu_ai.contract import bus_pb2
from qingyu_ai.routes import Route

from .fault import Fault
from .headers import Envelope


@dataclass(frozen=True, slots=True)
class Observed:
    """A call, as far as whoever tells of it knows it."""

    kind: str
    """Of the worker behind it."""
    method: str
    target: str
    """Of a row that has one, the last token of its subject: agent type or tool."""
    envelope: Envelope
    epoch: int = 0
    """Of the claim; 0: none."""

    @classmethod
    def of(cls, route: Route[Any, Any], subject: str, envelope: Envelope, epoch: int = 0) -> Observed:
        """What a request on a subject is about."""
        target = subject[len(route.subject) + 1 :] if route.token else ""
        return cls(route.worker, route.method, target, envelope, epoch)


@dataclass(frozen=True, slots=True)
class Decided:
    """A call that was decided: all that is told of it is a function of this, whoever finds it."""

    call: Observed
    revision: int
    """Of the record."""
    record: bus_pb2.Record


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process."""

    id: str
    kind: str
    version: str


class Observer(Protocol):
    """Is told what happens. Nothing here raises or waits, but for `decided`."""

    def accepted(self, call: Observed) -> None:
        """The job of a call is stored."""

    def started(self, call: Observed, worker: str, attempt: int) -> None:
        """A worker has begun with a call, or taken it over."""

    def first_token(self, call: Observed, seconds: float) -> None:
        """The first word of an answer is said, so long after its worker had begun."""

    def tool_called(self, call: Observed, number: int, tool: str, seconds: float, code: int) -> None:
        """An agent has the result of a tool.

        Args:
            number: of the tool call in this claim.
            code: canonical status code; 0: success.
        """

    def asked(self, call: Observed, seconds: float, fault: Fault | None) -> None:
        """A call of an rpc row is over."""

    async def decided(self, call: Decided) -> None:
        """A job is decided, and its caller has been told. Told again by everybody who finds it so.

        Raises:
            TransportError: it could not be passed on. The job must come again.
        """

    def worker_up(self, worker: Process, slots: int) -> None:
        """A worker takes calls."""

    def worker_draining(self, worker: Process, running: int) -> None:
        """A worker takes no more calls."""

    def worker_down(self, worker: Process, *, lost: bool) -> None:
        """A worker has stopped, or (`lost`) is not heard any more."""


class Nobody:
    """Is told, and tells nobody. See `Observer`."""

    def accepted(self, call: Observed) -> None:
        """See `Observer.accepted`."""

    def started(self, call: Observed, worker: str, attempt: int) -> None:
        """See `Observer.started`."""

    def first_token(self, call: Observed, seconds: float) -> None:
        """See `Observer.first_token`."""

    def tool_called(self, call: Observed, number: int, tool: str, seconds: float, code: int) -> None:
        """See `Observer.tool_called`."""

    def asked(self, call: Observed, seconds: float, fault: Fault | None) -> None:
        """See `Observer.asked`."""

    async def decided(self, call: Decided) -> None:
        """See `Observer.decided`."""

    def worker_up(self, worker: Process, slots: int) -> None:
        """See `Observer.worker_up`."""

    def worker_draining(self, worker: Process, running: int) -> None:
        """See `Observer.worker_draining`."""

    def worker_down(self, worker: Process, *, lost: bool) -> None:
        """See `Observer.worker_down`."""


NOBODY: Observer = Nobody()
