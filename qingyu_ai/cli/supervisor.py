"""Run a list of programs as one system: in order up, in the other order down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from .backoff import Backoff
from .probe import Probe
from .process import GaveUp, Process, Program, Stage, Watcher


class Supervisor:
    """The processes of one system."""

    def __init__(
        self,
        programs: Iterable[Program],
        watcher: Watcher,
        *,
        before: Probe | None = None,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        """Prepare the processes.

        Args:
            programs: what to run; those of one stage stop together.
            watcher: is told every line and every change of state.
            before: what has to be ready before the first of them starts, such as a broker that somebody else runs.
            backoff: makes the waits between restarts of one process.
        """
        by_stage = sorted(programs, key=lambda p: p.stage)
        self.hopeless = asyncio.Event()
        """Set when a process has given up: the system cannot become what it should be."""
        self.processes: Sequence[Process] = [Process(p, watcher, backoff(), self.hopeless.set) for p in by_stage]
        self._before = before
        self.before_reason = ""
        """Why what somebody else runs is not ready; empty when it is."""

    def __repr__(self) -> str:
        return f"<Supervisor {list(self.processes)}>"

    async def start(self) -> None:
        """Start everything and return when all of it is ready, however long that takes; `waiting` says what is missing.

        Only the broker holds the others back. Workers and bridges wait for each other by themselves, as in a cluster.
        """
        if self._before:
            self.before_reason = "no answer yet"
            while reason := await self._before():
                self.before_reason = reason
                await asyncio.sleep(0.2)
            self.before_reason = ""
        brokers = [p for p in self.processes if p.program.stage is Stage.BROKER]
        for group in (brokers, [p for p in self.processes if p not in brokers]):
            for process in group:
                process.start()
            for process in group:
                await process.up.wait()

    async def stop(self) -> list[Process]:
        """Stop everything, the last stage first.

        Returns:
            The processes that did not end as they should; those that gave up are not among them.
        """
        for stage in reversed(self._stages()):
            await asyncio.gather(*(process.stop() for process in stage))
        ended = [p for p in self.processes if p.state is not None and not isinstance(p.state, GaveUp)]
        return [process for process in ended if not process.clean]

    def kill(self) -> None:
        """Kill everything now; `stop` returns soon after."""
        for process in self.processes:
            process.kill()

    def gave_up(self) -> str:
        """Which process has given up, and why; empty when none has."""
        return "; ".join(
            f"{p.program.name} cannot run as it is set up ({p.state.how}): {p.state.why}"
            for p in self.processes
            if isinstance(p.state, GaveUp)
        )

    def waiting(self) -> dict[str, str]:
        """What is not ready, and why."""
        if self.before_reason:
            return {"nats": self.before_reason}
        return {p.program.name: p.reason for p in self.processes if p.state is not None and not p.up.is_set()}

    def _stages(self) -> list[list[Process]]:
        return [list(group) for _, group in groupby(self.processes, key=lambda p: p.program.stage)]
