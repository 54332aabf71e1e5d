"""`qingyu-ai demo`: the whole system on free ports in a directory of its own, and a tour through it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from qingyu_ai.settings import Settings, load

from . import guarded, logline, nats_server, postgres
from .console import Terminal, describe, render
from .interrupt import Interrupt
from .preflight import free_ports
from .process import Program, State, Watcher, tethered
from .programs import KINDS, as_environment, programs, python_environment
from .supervisor import Supervisor

START_SECONDS = 60.0
TOUR_SECONDS = 300.0
TELL_EVERY_SECONDS = 2.0
SHOWN_LINES = 40
HOST = "127.0.0.1"
ALWAYS = ("bridge", "proxy")
"""Kinds that the demo starts even if this machine is set to run none of them: its tour comes in there."""

OPEN = {"authentication": "off"}
"""The tour has no token."""

OWN_DATABASE = {"dsn": "", "owner_dsn": ""}
"""Also when the environment names one: the demo must not leave its traces there."""
NO_CERTIFICATES = {"ca_file": "", "cert_file": "", "key_file": ""}
"""Those that the environment names are for other addresses."""
INTERRUPTED_STATUS = 128 + signal.SIGINT


class DemoFailed(Exception):
    """A step of the demo went wrong. The message says which, and why."""


class LogFiles:
    """Keeps what each process said, in one file each: the demo shows it only when something failed."""

    def __init__(self, folder: Path) -> None:
        """Prepare the folder."""
        self.watcher = Watcher(self._line, self._changed)
        self._folder = folder
        folder.mkdir(parents=True)

    def last(self, count: int) -> dict[str, list[str]]:
        """The last lines of each process."""
        found = {}
        for path in sorted(self._folder.glob("*.log")):
            with path.open(encoding="utf-8") as file:
                found[path.stem] = [line.rstrip("\n") for line in deque(file, maxlen=count)]
        return found

    def _line(self, program: Program, text: str) -> None:
        parsed = logline.parse(text)
        self._write(program, render(parsed).plain if parsed else logline.printable(text))

    def _changed(self, program: Program, state: State) -> None:
        self._write(program, f"● {describe(state)[0]}")

    def _write(self, program: Program, text: str) -> None:
        with (self._folder / f"{program.name}.log").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


async def run() -> int:
    """Start, tour, stop.

    Returns:
        0 only if all of it worked.
    """
    terminal = Terminal()
    tour = nats_server.shipped("examples/tour.py")
    interrupt = Interrupt()
    with interrupt.listening(), tempfile.TemporaryDirectory(prefix="qingyu-demo-") as folder:
        settings, env = _settings(Path(folder), terminal)
        logs = LogFiles(Path(folder) / "logs")
        supervisor = Supervisor(programs(settings, env), logs.watcher)
        interrupt.on_second = supervisor.kill
        problem = await _work_or_interrupt(supervisor, settings, tour, terminal, interrupt)
        terminal.print("stopping …", style="dim")
        failed = await supervisor.stop()
        if interrupt.asked.is_set():
            return INTERRUPTED_STATUS
        problems = [problem] if problem else []
        problems += [f"{p.program.name} did not stop cleanly: {describe(p.state)[0]}" for p in failed if p.state]
        if problems:
            _show_failure(terminal, problems, logs)
            return 1
    terminal.print("The demo worked: everything started, answered and stopped.", style="bold green")
    return 0


async def _work_or_interrupt(
    supervisor: Supervisor, settings: Settings, tour: Path, terminal: Terminal, interrupt: Interrupt
) -> str:
    """Start and tour, unless a signal comes first or a process gives up.

    Returns:
        What went wrong, or an empty text.
    """
    work = asyncio.create_task(_work(supervisor, settings, tour, terminal))
    ended = asyncio.create_task(interrupt.asked_or(supervisor.hopeless))
    await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
    for task in (work, ended):
        task.cancel()
    try:
        await work
    except DemoFailed as e:
        return str(e)
    except asyncio.CancelledError:
        return supervisor.gave_up() or "interrupted"
    finally:
        with suppress(asyncio.CancelledError):
            await ended
    return ""


async def _work(supervisor: Supervisor, settings: Settings, tour: Path, terminal: Terminal) -> None:
    await _start(supervisor, terminal)
    where = ("--target", f"{HOST}:{settings.bridge.port}", "--proxy", f"http://{HOST}:{settings.proxy.port}")
    terminal.print(f"everything is up; now: python examples/tour.py {' '.join(where)}", style="dim")
    await _take_tour(tour, where)
    died = [p.program.name for p in supervisor.processes if not p.up.is_set()]
    if died:
        raise DemoFailed(f"died during the tour: {', '.join(died)}")


async def _start(supervisor: Supervisor, terminal: Terminal) -> None:
    telling = asyncio.create_task(_tell(supervisor, terminal))
    try:
        async with asyncio.timeout(START_SECONDS):
            await supervisor.start()
    except TimeoutError:
        waiting = "; ".join(f"{name}: {reason}" for name, reason in supervisor.waiting().items())
        raise DemoFailed(f"not everything was up after {START_SECONDS:g} s. Still missing: {waiting}") from None
    finally:
        telling.cancel()


async def _tell(supervisor: Supervisor, terminal: Terminal) -> None:
    """Say what the start waits for."""
    terminal.print(f"starting {', '.join(p.program.name for p in supervisor.processes)} on free ports", style="dim")
    while True:
        await asyncio.sleep(TELL_EVERY_SECONDS)
        for name, reason in supervisor.waiting().items():
            terminal.print(f"waiting for {name}: {logline.printable(reason)}", style="dim")


async def _take_tour(tour: Path, where: tuple[str, ...]) -> None:
    """Run the example as a person would, with its output where ours goes."""
    child = await asyncio.create_subprocess_exec(
        *tethered((sys.executable, str(tour), *where)),
        env={**os.environ, **python_environment()},
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TOUR_SECONDS):
            status = await child.wait()
    except TimeoutError:
        raise DemoFailed(f"the tour did not end within {TOUR_SECONDS:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if status != 0:
        raise DemoFailed(f"the tour failed with exit status {status}; its own words are above")


def _settings(folder: Path, terminal: Terminal) -> tuple[Settings, dict[str, str]]:
    """Settings of a system that shares nothing with one that runs already, and what its children are told of them."""
    configured = load(rag=OWN_DATABASE)
    if left_out := postgres.left_out(configured):
        terminal.print(postgres.LEFT_OUT, style="yellow")
        configured = load(**left_out)
    ports = iter(free_ports(2 + 2 * len(KINDS), HOST))
    overrides: dict[str, Any] = {
        "data_dir": folder / "data",
        "nats": {"host": HOST, "port": next(ports), "monitor_port": 0, **NO_CERTIFICATES},
        "ai": {"proxy": dict(NO_CERTIFICATES)},
        "bus": {"replicas": 1},
    }
    for kind in KINDS:
        one = 1 if kind.name in ALWAYS else min(1, kind.section(configured).processes)
        served = {"host": HOST, "port": next(ports)} if kind.serves(configured) else {}
        own: dict[str, Any] = {"host": HOST, "port": next(ports), **OWN_DATABASE} if kind.name == "rag" else {}
        own |= OPEN if kind.name == "proxy" else {}
        at = {"metrics_host": HOST, "metrics_port": next(ports)}
        overrides[kind.name] = {"processes": one, **at, **served, **own}
    overrides["ai"] = {"proxy": {"python_addr": f"{HOST}:{overrides['bridge']['port']}"}}
    # What this machine does not start is nowhere: HealthCheck must not miss it.
    absent = {kind.name for kind in KINDS if not kind.section(configured).processes}
    overrides["bridge"] |= {
        "cert_file": "",
        "key_file": "",
        "client_ca_file": "",
        "expected_workers": [k for k in configured.bridge.expected_workers if k not in absent],
    }
    settings = load(**overrides)
    # Also when the environment names a server: the demo must not leave its traces in somebody's cluster.
    settings = settings.model_copy(update={"nats": settings.nats.model_copy(update={"url": ""})})
    settings = guarded.with_passwords(settings)
    guarded.write_configuration(settings)
    return settings, as_environment(overrides)


def _show_failure(terminal: Terminal, problems: list[str], logs: LogFiles) -> None:
    for name, shown in logs.last(SHOWN_LINES).items():
        terminal.print(f"\n──── the last lines of {name}", style="bold")
        for line in shown:
            terminal.print(line)
    terminal.print()
    for problem in problems:
        terminal.print(f"The demo failed: {logline.printable(problem)}", style="bold red")
