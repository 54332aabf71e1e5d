"""`qingyu-ai` as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]


class Command:
    """A running `qingyu-ai`, with its output in a file."""

    def __init__(
        self, folder: Path, *arguments: str, module: str = "tests.cli.dummy_system", prefix: str = "", **env: str
    ) -> None:
        self.path = folder / "output"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QINGYU_") and k != "NATS_URL"}
        self.env = {**inherited, "PYTHONPATH": str(ROOT), "QINGYU_DATA_DIR": str(folder / "var"), **env}
        with self.path.open("w") as file:
            self.process = psutil.Popen(
                [*prefix.split(), sys.executable, "-m", module, *arguments],
                cwd=folder,
                env=self.env,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.path.read_text()

    def says(self, text: str) -> Callable[[], bool]:
        """A condition: it has printed this."""
        return lambda: text in self.output or self.ended(text)

    def ended(self, text: str) -> bool:
        """Fail early when what was waited for cannot come any more."""
        if self.process.poll() is None or text in self.output:
            return False
        raise AssertionError(f"ended before it said {text!r}:\n{self.output}")

    def finish(self, timeout: float = 15) -> int:
        """Wait for its end; the exit status."""
        try:
            return int(self.process.wait(timeout))
        except psutil.TimeoutExpired:
            children = [" ".join(child.cmdline()) for child in self.children()]
            raise AssertionError(f"still runs after {timeout:g} s with {children}:\n{self.output}") from None

    def children(self) -> list[psutil.Process]:
        """Its processes."""
        found: list[psutil.Process] = self.process.children(recursive=True)
        return found


Run = Callable[..., Command]


def ports(**more: str) -> dict[str, str]:
    """Free ports for everything; no retrieval, whose database takes seconds to make: see `with_retrieval`."""
    nats, monitor, bridge, bridge_metrics, chat_metrics, tool_metrics, agent_metrics = free_ports(7)
    return {
        "QINGYU_NATS__PORT": str(nats),
        "QINGYU_NATS__MONITOR_PORT": str(monitor),
        "QINGYU_BRIDGE__PORT": str(bridge),
        "QINGYU_BRIDGE__METRICS_PORT": str(bridge_metrics),
        "QINGYU_CHAT__METRICS_PORT": str(chat_metrics),
        "QINGYU_TOOL__METRICS_PORT": str(tool_metrics),
        "QINGYU_AGENT__METRICS_PORT": str(agent_metrics),
        "QINGYU_RAG__PROCESSES": "0",
        **more,
    }


def with_retrieval(**more: str) -> dict[str, str]:
    """Free ports for everything, and of retrieval what is there by default."""
    database, metrics = free_ports(2)
    where = ports(QINGYU_RAG__PORT=str(database), QINGYU_RAG__METRICS_PORT=str(metrics))
    del where["QINGYU_RAG__PROCESSES"]
    return {**where, **more}


def gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    """A condition: none of them runs any more."""
    return lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
