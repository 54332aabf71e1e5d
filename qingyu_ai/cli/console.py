"""What a person sees: log lines with the name of their process in front, and one line for each change of state.

Rich leaves the colours out when the output is no terminal or NO_COLOR is set.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
from typing import TextIO

import rich.console
from rich.text import Text

from . import backoff, logline
from .process import Exited, GaveUp, Program, Starting, State, Stopped, Stopping, Up, Watcher

COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_magenta")
LEVELS = {"debug": "dim", "info": "green", "warning": "yellow", "error": "bold red", "critical": "bold white on red"}
EVERYDAY = ("debug", "info")

WAITING_LINES = 10_000
"""So many lines wait for a terminal that takes none (Ctrl-S, a selection in its window); later ones are dropped."""


class Terminal(rich.console.Console):
    """Rich's console, but it goes on when its reader is gone: a dead `tee` must not keep `up` from stopping cleanly."""

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Write into nothing from now on."""
        void = os.open(os.devnull, os.O_WRONLY)
        os.dup2(void, self.file.fileno())
        os.close(void)


class Void(io.StringIO):
    """A file that forgets."""

    def write(self, text: str) -> int:
        """Take it."""
        return len(text)


class Screen:
    """Prints from a thread of its own.

    A terminal can stop taking output for as long as a person likes. If that stopped the supervisor, the children's
    pipes would fill up, and a bridge that blocks on its log loses its connection to the broker.
    """

    def __init__(self, *, verbose: bool = False, terminal: Terminal | None = None) -> None:
        """Open it.

        Args:
            verbose: show the everyday lines of quiet programs too.
            terminal: where to print; standard output by default.
        """
        self.watcher = Watcher(self.line, self.changed)
        self._verbose = verbose
        self._terminal = terminal or Terminal()
        self._colours: dict[str, str] = {}
        self._dropped = 0
        self._waiting: queue.Queue[Text | None] = queue.Queue(WAITING_LINES)
        self._thread = threading.Thread(target=self._print_all, name="screen", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still prints."""
        return self._thread.is_alive()

    def close(self, seconds: float = 2.0) -> None:
        """Print what waits, but do not let a stopped terminal keep the supervisor from ending."""
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def say(self, text: str, style: str = "") -> None:
        """Print a line of the supervisor's own."""
        self._put(Text(text, style))

    def block(self, lines: list[str]) -> None:
        """Print a few lines that belong together, with air around them."""
        self._put(Text("\n" + "\n".join(f"  {line}".rstrip() for line in lines) + "\n", "bold"))

    def line(self, program: Program, text: str) -> None:
        """Print what a process said."""
        parsed = logline.parse(text)
        if parsed and program.quiet and not self._verbose and parsed.level in EVERYDAY:
            return
        self._put(self._from(program, render(parsed) if parsed else Text(logline.printable(text))))

    def changed(self, program: Program, state: State) -> None:
        """Print how a process fares."""
        text, style = describe(state)
        self._put(self._from(program, Text(f"● {text}", style)))
        if isinstance(state, Exited) and state.deaths % backoff.IN_A_ROW == 0:
            self.say(persistent(program, state), "bold red")

    def _from(self, program: Program, text: Text) -> Text:
        colour = self._colours.setdefault(program.name, COLOURS[len(self._colours) % len(COLOURS)])
        return Text.assemble((f"{program.name:<8} │ ", colour), text)

    def _put(self, text: Text) -> None:
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def _print_all(self) -> None:
        while (text := self._waiting.get()) is not None:
            if self._dropped:
                missing, self._dropped = self._dropped, 0
                self._print(Text(f"… {missing} lines left out: the terminal did not take them", "yellow"))
            self._print(text)

    def _print(self, text: Text) -> None:
        try:
            self._terminal.print(text)
        except (OSError, ValueError):  # the terminal was closed
            self._terminal.file = Void()


def render(line: logline.LogLine) -> Text:
    """A log record in one line, and its traceback below."""
    text = Text.assemble(
        (f"{line.time} ", "dim"),
        (f"{line.level:<8}", LEVELS.get(line.level, "")),
        f" {logline.printable(line.event)}",
    )
    for key, value in line.fields:
        text.append(f"  {logline.printable(key)}=", "dim")
        text.append(logline.printable(value))
    for row in line.traceback.splitlines():
        text.append(f"\n    {logline.printable(row)}", "red")
    return text


def describe(state: State) -> tuple[str, str]:
    """A state in words, and its colour."""
    match state:
        case Starting(pid):
            return f"starting (pid {pid})", "dim"
        case Up(pid, seconds):
            return f"up (pid {pid}) after {seconds:.1f} s", "green"
        case Exited(how, retry_seconds, _):
            return f"exited: {how}; restarting in {retry_seconds:g} s", "bold red"
        case GaveUp(how, _):
            return f"gave up: {how}", "bold red"
        case Stopping(seconds):
            return f"stopping, for at most {seconds:g} s", "dim"
        case Stopped(how, clean):
            return f"stopped: {how}", "dim" if clean else "bold red"


def persistent(program: Program, state: Exited) -> str:
    """The word on a process that dies again and again."""
    return (
        f"{program.name} has died {state.deaths} times in a row, each time soon after its start ({state.how}). "
        "Its last lines, above, should say why. It is tried again, every 15 s in the end; Ctrl-C stops everything."
    )


def complain(problems: list[str]) -> None:
    """Print why nothing was started, on standard error."""
    terminal = Terminal(sys.stderr)
    for problem in problems:
        terminal.print(Text(problem, "red"))
