"""Spans: what a call did where, for how long, and in whose name. Off unless a process was told where a collector is.

This module knows no OpenTelemetry, so that a process without a collector neither imports nor pays for it (decision record 0019);
`recording` does. A span that is current is the parent of those that are begun under it, in the same task or in tasks made there.

    with tracing.span("chat novel", Kind.CLIENT, {names.MODEL: "novel"}) as span:
        headers["traceparent"] = span.traceparent
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from enum import Enum
from types import TracebackType
from typing import Protocol

from qingyu_ai.bus.fault import Code, Fault

from . import names
from .context import Context

Value = str | int | float | bool | tuple[str, ...]
Attributes = Mapping[str, Value]

CANCELLED = "cancelled"
"""`error.type` of what was stopped because nobody waited any more. That is no error."""

DEFECT = "internal"
"""`error.type` of what raised something that no caller may see."""


class Kind(Enum):
    """On which side of which conversation a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Record(Protocol):
    """A span as a recorder keeps it."""

    @property
    def traceparent(self) -> str:
        """What names it to others."""
        ...

    @property
    def ids(self) -> tuple[str, str]:
        """Trace and span, hexadecimal, for log lines."""
        ...

    def set(self, name: str, value: Value) -> None:
        """Have an attribute."""

    def fail(self, message: str) -> None:
        """Have failed, for a reason that a caller may see."""

    def end(self) -> None:
        """Be over."""


class Recorder(Protocol):
    """What keeps spans."""

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, parent: str, began_ns: int | None, span_id: int
    ) -> Record:
        """Begin a span.

        Args:
            parent: its parent's traceparent; empty: it begins a trace.
            began_ns: unix nanoseconds; None: now.
            span_id: 0: a random one.
        """
        ...


class Span:
    """A span that is recorded. One that is not ended is never seen."""

    __slots__ = ("_before", "_record", "traceparent", "tracestate")

    def __init__(self, record: Record, tracestate: str = "") -> None:
        self._record = record
        self._before: Span | Off = OFF
        self.traceparent = record.traceparent
        """What names it to others."""
        self.tracestate = tracestate
        """What others keep with its trace."""

    def __bool__(self) -> bool:
        return True

    @property
    def ids(self) -> tuple[str, str]:
        """Trace and span, hexadecimal, for log lines."""
        return self._record.ids

    def set(self, name: str, value: Value) -> None:
        """Add an attribute. Texts of users, and what models were told and said, are none."""
        self._record.set(name, value)

    def fail(self, kind: str, message: str = "") -> None:
        """Say that it failed.

        Args:
            kind: which failure, a word of few.
            message: what a caller is told of it.
        """
        self._record.set(names.ERROR_TYPE, kind)
        self._record.fail(message)

    def failed(self, error: BaseException | None) -> None:
        """Say how it ended, without a word that its caller may not see."""
        match error:
            case None:
                pass
            case Fault(code=Code.CANCELLED) | asyncio.CancelledError():
                self.set(names.ERROR_TYPE, CANCELLED)
            case Fault(code=Code.INVALID_ARGUMENT):
                self.fail(error.reason)  # its message may say back what the caller wrote
            case Fault():
                self.fail(error.reason, error.message)
            case GeneratorExit():
                self.set(names.ERROR_TYPE, CANCELLED)
            case _:
                self.fail(DEFECT)

    def enter(self) -> None:
        """Be current, until the task ends or another span is."""
        self._before = _current.get()
        _current.set(self)

    def end(self) -> None:
        """Be over."""
        self._record.end()

    def __enter__(self) -> Span:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.set(self._before)
        self.failed(error)
        self.end()


class Off:
    """A span that nobody records."""

    __slots__ = ()
    traceparent = ""
    tracestate = ""
    ids = ("", "")

    def __bool__(self) -> bool:
        return False

    def set(self, name: str, value: Value) -> None:
        """Nothing."""

    def fail(self, kind: str, message: str = "") -> None:
        """Nothing."""

    def failed(self, error: BaseException | None) -> None:
        """Nothing."""

    def enter(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def __enter__(self) -> Off:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Passing(Off):
    """A span of somebody else's: what is done within it is done in its name, and recorded by others."""

    __slots__ = ("traceparent", "tracestate")

    def __init__(self, given: Context) -> None:
        self.traceparent, self.tracestate = given

    def enter(self) -> None:
        """Be current, until the task ends or another span is."""
        _current.set(self)


OFF = Off()

_current: ContextVar[Span | Off] = ContextVar("span", default=OFF)
_recorder: Recorder | None = None


def record_with(recorder: Recorder | None) -> None:
    """Have all spans of this process kept by a recorder; None: by nobody."""
    global _recorder
    _recorder = recorder


def is_on() -> bool:
    """Whether spans are recorded."""
    return _recorder is not None


def current() -> Span | Off:
    """The span that this task is in."""
    return _current.get()


def onward(given: str) -> str:
    """The traceparent for whoever is asked next: the current span's; where there is none, the one that was given to us."""
    return _current.get().traceparent or given


def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Attributes | None = None,
    *,
    parent: str = "",
    tracestate: str = "",
    began_ns: int | None = None,
    span_id: int = 0,
) -> Span | Off:
    """Begin a span.

    Args:
        name: of few kinds; what differs from call to call is an attribute.
        parent: a traceparent from outside; empty: the current span.
        tracestate: of that parent.
        began_ns: unix nanoseconds; None: now.
        span_id: 0: a random one.
    """
    if _recorder is None:
        return OFF
    parent = parent or _current.get().traceparent
    return Span(_recorder.begin(name, kind, attributes or {}, parent, began_ns, span_id), tracestate)
