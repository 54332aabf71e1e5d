"""One supervised child: started, watched until it is ready, started again when it dies, stopped in two steps."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from . import logline, probe
from .backoff import Backoff

TETHER = str(Path(__file__).with_name("tether.py"))

PROBE_EVERY_SECONDS = 0.1
HOPELESS_STATUS = 2
"""How a process ends whose settings do not hold, or whose address is taken: `EXIT_SETTINGS` in qingyu_ai/process.py."""

LAST_WORDS_SECONDS = 1.0
"""How long to read on after a child's death; only a grandchild in a session of its own can keep the pipe open."""


class Stage(IntEnum):
    """The order of starting; stopping goes the other way, so that nobody is asked while the one it needs is gone."""

    BROKER = 0
    WORKER = 1
    EDGE = 2


@dataclass(frozen=True)
class Program:
    """What to run, and how to tell that it is ready."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """In addition to the supervisor's own environment."""
    ready: probe.Probe = probe.alive
    stop_seconds: float = 10.0
    """From the signal that asks it to end to SIGKILL."""
    stage: Stage = Stage.WORKER
    stop_signal: signal.Signals = signal.SIGTERM
    """What asks it to end."""
    quiet: bool = False
    """Its everyday lines (debug, info) interest only who asks for them."""


@dataclass(frozen=True)
class Starting:
    """Runs, and is not ready yet."""

    pid: int


@dataclass(frozen=True)
class Up:
    """Runs and is ready."""

    pid: int
    seconds: float
    """From its start until it was ready."""


@dataclass(frozen=True)
class Exited:
    """Died without being asked to; starts again later."""

    how: str
    retry_seconds: float
    deaths: int
    """In a row."""


@dataclass(frozen=True)
class GaveUp:
    """Ended before it was ever ready, and said that starting it again changes nothing."""

    how: str
    why: str
    """The last that it said."""


@dataclass(frozen=True)
class Stopping:
    """Was asked to end."""

    stop_seconds: float


@dataclass(frozen=True)
class Stopped:
    """Ended, and stays so."""

    how: str
    clean: bool


State = Starting | Up | Exited | GaveUp | Stopping | Stopped


@dataclass(frozen=True)
class Watcher:
    """Who is told what a process says and how it fares. Neither call may block."""

    line: Callable[[Program, str], None]
    changed: Callable[[Program, State], None]


class Process:
    """A supervised child. Its session is its own, so a terminal's Ctrl-C reaches only the supervisor."""

    def __init__(
        self,
        program: Program,
        watcher: Watcher,
        backoff: Backoff | None = None,
        on_hopeless: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare it; `start` runs it.

        Args:
            on_hopeless: called when it has given up.
        """
        self.program = program
        self.state: State | None = None
        self.reason = ""
        """Why it is not ready, as the last probe said."""
        self.up = asyncio.Event()
        self._watcher = watcher
        self._backoff = backoff or Backoff()
        self._on_hopeless = on_hopeless
        self._proven = False
        """Whether it has been ready once, so that its settings did hold."""
        self._last_line = ""
        self._stop = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._killed = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Process {self.program.name} {self.state}>"

    def start(self) -> None:
        """Run it from now on, again after each death."""
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {self.program.name}")

    async def stop(self) -> None:
        """Ask it to end, and kill it when it has not after the program's `stop_seconds`. Safe to call twice."""
        if self._task is None:
            return
        if not self._stop.is_set():
            self._stop.set()
            if self._child is not None:
                self._tell(Stopping(self.program.stop_seconds))
                self._signal(self.program.stop_signal)
        _, late = await asyncio.wait({self._task}, timeout=self.program.stop_seconds)
        if late:
            self.kill()
        await self._task

    def kill(self) -> None:
        """Kill it and everything it started, now, for good."""
        self._stop.set()
        self._killed = True
        self._signal_group(signal.SIGKILL)

    @property
    def clean(self) -> bool:
        """Whether it ended as asked."""
        return isinstance(self.state, Stopped) and self.state.clean

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        last = Stopped("it was not running", clean=True)
        while not self._stop.is_set():
            started = loop.time()
            status = await self._run_once(started)
            self.up.clear()
            lived = loop.time() - started
            self._proven = self._proven or lived >= self._backoff.healthy_after_seconds
            if status == HOPELESS_STATUS and not self._proven:
                self.reason = f"it gave up: {describe_exit(status)}"
                self._tell(GaveUp(describe_exit(status), logline.gist(self._last_line)))
                self._on_hopeless()
                return
            if self._stop.is_set():
                # Killed by that signal is how a program ends that was stopped before it could install its own handler.
                ended = not self._killed and status in (0, -self.program.stop_signal)
                last = Stopped(describe_exit(status), clean=ended)
                break
            wait = self._backoff.died(lived)
            self.reason = f"it died: {describe_exit(status)}"
            self._tell(Exited(describe_exit(status), wait, self._backoff.deaths))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)
        self._tell(last)

    async def _run_once(self, started: float) -> int | None:
        """Run the program to its end; the exit status, or None when it cannot be started."""
        try:
            child, output = await _spawn(self.program)
        except OSError as e:
            self._watcher.line(self.program, f"cannot start {self.program.argv[0]}: {e.strerror}")
            return None
        self._child = child
        self._tell(Starting(child.pid))
        if self._killed:
            self._signal_group(signal.SIGKILL)
        elif self._stop.is_set():  # asked to end while it was being started
            self._signal(self.program.stop_signal)
        reading = asyncio.create_task(self._read(output))
        watching = asyncio.create_task(self._watch(child.pid, started))
        try:
            status = await child.wait()
        finally:
            watching.cancel()
            # What it left behind would hold its ports and its end of the pipe.
            self._signal_group(signal.SIGKILL)
            self._child = None
        _, late = await asyncio.wait({reading}, timeout=LAST_WORDS_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(reading, watching, return_exceptions=True)
        return status

    async def _read(self, output: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb")
        )
        try:
            async for line in logline.lines(reader):
                self._last_line = line.strip() or self._last_line
                self._watcher.line(self.program, line)
        finally:
            transport.close()

    async def _watch(self, pid: int, started: float) -> None:
        """Probe until it is ready once."""
        self.reason = "it was just started"
        while reason := await self._probe():
            self.reason = reason
            await asyncio.sleep(PROBE_EVERY_SECONDS)
        self.reason = ""
        if not self._stop.is_set():
            self._proven = self._proven or self.program.ready is not probe.alive
            self._tell(Up(pid, asyncio.get_running_loop().time() - started))
            self.up.set()

    async def _probe(self) -> str:
        try:
            return await self.program.ready()
        except Exception as e:  # a probe with a defect must be seen, not pass for a process that never gets ready
            return f"the probe failed: {type(e).__name__}: {e}"

    def _tell(self, state: State) -> None:
        self.state = state
        self._watcher.changed(self.program, state)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._child is not None:
            # Its group outlives it while a member lives, so the number cannot mean somebody else.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)


def describe_exit(status: int | None) -> str:
    """`-9` → `killed by SIGKILL`."""
    if status is None:
        return "could not be started"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


async def _spawn(program: Program) -> tuple[asyncio.subprocess.Process, int]:
    """Start a program with both its streams in one pipe; the pipe's read end is the second result.

    It is our pipe and not one of asyncio's, whose `wait` does not return while a grandchild keeps the pipe open.
    """
    output, its_end = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            *tethered(program.argv),
            env={**os.environ, **program.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(its_end)
    return child, output


def tethered(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Make a command line whose process dies with this one.

    Elsewhere than on Linux a child can outlive a supervisor that is killed with SIGKILL; the next start then finds its
    ports taken.
    """
    if sys.platform != "linux":
        return argv
    return (sys.executable, "-I", "-S", TETHER, str(os.getpid()), *argv)
