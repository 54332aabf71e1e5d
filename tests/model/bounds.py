"""How far an exploration goes: how much there is, what may go wrong, and how often."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from .rules import Rules

CANCELLED = "CANCELLED"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
"""May be tried again."""


class Budget(NamedTuple):
    """What may still go wrong, or be asked."""

    deaths: int
    drains: int
    redeliveries: int
    adoptions: int
    resends: int
    failures: int
    withdrawals: int
    resumes: int
    log_losses: int
    unaware: int
    queue_losses: int
    bridge_deaths: int
    refusals: int
    mutes: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far an exploration goes."""

    workers: int = 2
    readers: int = 1
    """The first one's bridge has stored the job; each other one makes the same request, at any moment."""
    deltas: int = 1
    """Of the whole text."""
    widest: int = 1
    """Deltas that one frame may cover."""
    brief: bool = False
    """A handler may also be done earlier than that."""
    deaths: int = 0
    drains: int = 0
    redeliveries: int = 0
    """Of a job that a worker still holds. One that nobody holds is always delivered again."""
    adoptions: int = 0
    """Deliveries that come to the worker that runs the job already."""
    resends: int = 0
    """Frames that are sent again; the copy that seemed lost may arrive at any time, or never."""
    failures: int = 0
    withdrawals: int = 0
    """By the first reader's bridge."""
    withdrawn: str = DEADLINE_EXCEEDED
    retries: int = 0
    """How often a failure may be reopened."""
    resumes: int = 0
    """The first bridge dies, and its caller goes on at another, with what it has."""
    log_losses: int = 0
    unaware: int = 1
    """Jobs that come after that to a worker which has not seen it yet."""
    queue_losses: int = 0
    bridge_deaths: int = 0
    """Between the record and the queue."""
    refusals: int = 0
    """Of a job message, by its queue; or it does not say that it has stored it."""
    one_bridge: bool = False
    """All requests come to the same one."""
    mutes: int = 0
    """The log does not answer a worker any more; what it sent last may arrive at any time, or never."""
    attempts: int = 9
    """Claims that may be lost before a job is put aside."""

    def __str__(self) -> str:
        told = [f.name for f in fields(self) if f.name == "workers" or getattr(self, f.name) != f.default]
        return ", ".join(f"{name} {getattr(self, name)}" for name in told)

    @property
    def budget(self) -> Budget:
        """At the beginning."""
        return Budget(**{name: getattr(self, name) for name in Budget._fields})


ALL = Rules()


@dataclass(frozen=True, slots=True)
class Scene:
    """What an exploration is of."""

    bounds: Bounds
    rules: Rules = ALL
