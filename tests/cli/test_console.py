from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest

from qingyu_ai.cli import console
from qingyu_ai.cli.console import Screen, Terminal, describe, render
from qingyu_ai.cli.logline import LogLine
from qingyu_ai.cli.process import Exited, GaveUp, Program, Starting, State, Stopped, Stopping, Up

BRIDGE = Program("bridge", ("true",))
NATS = Program("nats", ("true",), quiet=True)


def printed(*events: tuple[Program, str | State], verbose: bool = False) -> list[str]:
    out = io.StringIO()
    screen = Screen(verbose=verbose, terminal=Terminal(out))
    for program, event in events:
        screen.line(program, event) if isinstance(event, str) else screen.changed(program, event)
    screen.close()
    return out.getvalue().splitlines()


def test_a_record_is_shown_in_one_line_with_its_process_in_front() -> None:
    record = json.dumps({"event": "call ended", "level": "warning", "code": "UNAVAILABLE", "note": "two words"})
    assert printed((BRIDGE, record)) == ['bridge   │  warning  call ended  code=UNAVAILABLE  note="two words"']


def test_a_line_that_is_no_record_is_passed_through() -> None:
    assert printed((BRIDGE, "Segmentation fault [red]x[/red]")) == ["bridge   │ Segmentation fault [red]x[/red]"]


def test_a_long_line_is_not_broken() -> None:
    assert printed((BRIDGE, "x" * 500)) == ["bridge   │ " + "x" * 500]


def test_a_traceback_follows_below_its_record() -> None:
    line = LogLine("08:00:00", "error", "call failed", (), "Traceback\n  ValueError: no")
    assert render(line).plain.splitlines() == [
        "08:00:00 error    call failed",
        "    Traceback",
        "      ValueError: no",
    ]


def test_somebody_elses_text_cannot_steer_the_terminal() -> None:
    shown = printed((BRIDGE, "\x1b[2J"), (BRIDGE, json.dumps({"event": "\x1b]0;x", "k": "\x1b[1m"})))
    assert not any("\x1b" in line for line in shown)


def test_the_brokers_everyday_lines_are_shown_only_on_request() -> None:
    everyday = (NATS, "[7] 2025/11/24 07:21:22.808865 [INF] Server is ready")
    serious = (NATS, "[7] 2025/11/24 07:21:22.808865 [ERR] no space left")
    assert printed(everyday, serious) == ["nats     │ 07:21:22 error    no space left"]
    assert len(printed(everyday, serious, verbose=True)) == 2


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Starting(7), "starting (pid 7)"),
        (Up(7, 0.52), "up (pid 7) after 0.5 s"),
        (Exited("killed by SIGKILL", 0.5, 1), "exited: killed by SIGKILL; restarting in 0.5 s"),
        (GaveUp("exit status 2", "port 7 is taken"), "gave up: exit status 2"),
        (Stopping(35), "stopping, for at most 35 s"),
        (Stopped("exit status 0", True), "stopped: exit status 0"),
    ],
)
def test_every_change_of_state_is_a_line(state: State, text: str) -> None:
    assert describe(state)[0] == text
    assert printed((BRIDGE, state)) == [f"bridge   │ ● {text}"]


def test_the_fifth_death_in_a_row_is_worth_a_loud_word() -> None:
    deaths = [(BRIDGE, Exited("exit status 1", 8, count)) for count in range(1, 7)]
    loud = [line for line in printed(*deaths) if "in a row" in line]
    assert len(loud) == 1
    assert loud[0].startswith("bridge has died 5 times in a row")


def test_without_a_terminal_there_are_no_colours_and_with_no_color_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Terminal(io.StringIO()).is_terminal
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Terminal(io.StringIO()).no_color


def test_a_terminal_that_takes_nothing_does_not_stop_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "WAITING_LINES", 10)
    stuck = StuckFile()
    screen = Screen(terminal=Terminal(stuck))
    for i in range(100):
        screen.line(BRIDGE, f"line {i}")  # would hang here
    stuck.go_on.set()
    screen.close()
    assert "lines left out" in stuck.getvalue()
    assert "line 99" not in stuck.getvalue()


def test_a_reader_that_goes_away_does_not_end_the_screen() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        screen = Screen(terminal=Terminal(pipe))
        screen.say("into the void")
        screen.say("again")
        screen.close()
        assert not screen.alive


def test_a_closed_output_does_not_end_the_screen(tmp_path: Path) -> None:
    file = (tmp_path / "out").open("w")
    file.close()
    screen = Screen(terminal=Terminal(file))
    screen.say("into the void")
    screen.close()
    assert not screen.alive


class StuckFile(io.StringIO):
    """A terminal after Ctrl-S: writing blocks until somebody lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.go_on.wait(10)
        return super().write(text)
