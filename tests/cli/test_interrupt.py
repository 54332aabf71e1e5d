"""A signal in the first moments of a command ends it quietly, as one later does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Command, Run, ports
from tests.waiting import eventually_sync

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

Moment = Callable[[Command], bool]


def listens(command: Command) -> bool:
    """It has taken over SIGTERM, the first thing that it does; all its imports are still to come."""
    status = Path(f"/proc/{command.process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def imports(command: Command) -> bool:
    """It is in the middle of its imports."""
    return "pydantic_core" in Path(f"/proc/{command.process.pid}/maps").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [listens, imports])
@pytest.mark.parametrize(("name", "status"), [("up", 0), ("demo", 130)])
def test_a_signal_during_the_imports_ends_it_without_a_traceback(
    run: Run, tmp_path: Path, name: str, status: int, moment: Moment, number: signal.Signals
) -> None:
    command = run(name, module="qingyu_ai.cli", **ports(TMPDIR=str(tmp_path)))
    eventually_sync(lambda: moment(command))
    command.process.send_signal(number)
    assert command.finish() == status
    assert "Traceback" not in command.output
    assert "Interrupt" not in command.output
    assert list(tmp_path.glob("qingyu-demo-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_come_all_the_time_add_no_traceback(run: Run, number: signal.Signals) -> None:
    up = run("up", module="qingyu_ai.cli", **ports())
    eventually_sync(lambda: "● starting" in up.output, timeout=20)

    def ended() -> bool:
        up.process.send_signal(number)
        return up.process.poll() is not None

    eventually_sync(ended, timeout=20)
    assert "Traceback" not in up.output
    assert "KeyboardInterrupt" not in up.output
