"""Small programs to supervise, and a watcher that remembers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qingyu_ai.cli.backoff import Backoff
from qingyu_ai.cli.process import Program, State, Watcher

OBEDIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
while True:
    time.sleep(60)
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


def python(name: str, code: str, **options: Any) -> Program:
    """A program that runs a few lines of Python."""
    return Program(name, (sys.executable, "-I", "-S", "-c", code), **options)


def impatient() -> Backoff:
    """Restarts without a wait that a test would notice."""
    return Backoff(first_seconds=0.01, longest_seconds=0.02)


@dataclass
class Memory:
    """Remembers what every program said and how it fared, in order."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    states: list[tuple[str, State]] = field(default_factory=list)

    @property
    def watcher(self) -> Watcher:
        """The watcher that fills it."""
        return Watcher(
            lambda program, line: self.lines.append((program.name, line)),
            lambda program, state: self.states.append((program.name, state)),
        )

    def said(self, name: str, text: str) -> Callable[[], bool]:
        """A condition: this program has said this."""
        return lambda: (name, text) in self.lines

    def of(self, name: str, kind: type[State]) -> list[Any]:
        """The states of this kind that a program went through."""
        return [state for who, state in self.states if who == name and isinstance(state, kind)]
