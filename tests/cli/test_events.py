"""`qingyu-ai events`: on a real broker, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Invalid
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import Observed, Process
from qingyu_ai.cli.event_lines import as_json, as_line
from qingyu_ai.cli.event_tail import BadTime, start_of
from qingyu_ai.contract import events_pb2
from qingyu_ai.events import BEGINNING, NOW, Event
from qingyu_ai.events.cloudevents import Attributes
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.events.received import NOTHING_SAID
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST, clean
from tests.cli.command import ROOT, Command
from tests.nats_cluster import AnyNats
from tests.waiting import eventually

MANY = 400
"""Events whose lines are more than a pipe holds."""


@pytest.fixture
async def bus(nats_process: AnyNats) -> AsyncIterator[NatsBus]:
    await clean(nats_process, FAST)
    bus = await NatsBus.open(nats_process.servers, "test", on_closed=lambda: None)
    yield bus
    await bus.close()


def call_of(user: str, project: str = "", number: int = 1) -> Observed:
    envelope = Envelope(f"{number:032x}", f"req_{number}", Deadline.after(9), user=user, project=project)
    return Observed("tool", "CallTool", "count_words", envelope)


async def tell(bus: NatsBus) -> None:
    """Three events, stored when this returns."""
    publisher = Publisher(bus, BusSettings())
    publisher.asked(call_of("张三", "p1", 1), 0.25, None)
    publisher.asked(call_of("李四\x1b[31m", "p2", 2), 0.5, Invalid(("a", "b")))
    publisher.worker_up(Process("w1", "tool", "1"), 8)

    async def stored() -> bool:
        return (await bus.jetstream.stream_info("AI_EVENTS")).state.messages == 3

    await eventually(stored)


async def start(
    nats: AnyNats, *arguments: str, stdout: int = asyncio.subprocess.PIPE, **env: str
) -> asyncio.subprocess.Process:
    """The command, with somebody who reads what it prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QINGYU_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qingyu_ai.cli", "events", *arguments),
        env={**inherited, "PYTHONPATH": str(ROOT), "NATS_URL": nats.url, **env},
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


def events(folder: Path, nats: AnyNats, *arguments: str) -> Command:
    return Command(folder, "events", *arguments, module="qingyu_ai.cli", NATS_URL=nats.url, PYTHONUTF8="1")


async def test_replay_prints_what_there_is_and_ends(bus: NatsBus, nats_process: AnyNats, tmp_path: Path) -> None:
    await tell(bus)
    command = events(tmp_path, nats_process, "replay")
    assert command.finish() == 0
    completed, failed, up = command.output.splitlines()
    for text in (
        "completed",
        "user=张三",
        "project=p1",
        "method=CallTool/count_words",
        "duration=0.25s",
        "call=00000000",
    ):
        assert text in completed
    assert "reason=INVALID_REQUEST" in failed
    assert "\\x1b[31m" in failed
    assert "\x1b" not in command.output
    assert "worker=w1" in up


async def test_replay_prints_cloudevents_in_json(bus: NatsBus, nats_process: AnyNats, tmp_path: Path) -> None:
    await tell(bus)
    command = events(tmp_path, nats_process, "replay", "--json", "--event", "completed", "--since", "1h")
    assert command.finish() == 0
    [line] = [json.loads(line) for line in command.output.splitlines()]
    assert (line["specversion"], line["type"]) == ("1.0", "qingyu.ai.events.v1.CallCompleted")
    message = ParseDict(line["data"], events_pb2.CallCompleted())
    assert (message.call.user, message.duration_ms) == ("张三", 250)


async def test_filters_of_project_user_and_time(bus: NatsBus, nats_process: AnyNats, tmp_path: Path) -> None:
    await tell(bus)
    for arguments, wanted in (
        (["--project", "p1", "--project", "p3"], 1),
        (["--user", "张三"], 1),
        (["--service", "chat"], 0),
        (["--since", "2999-01-01"], 0),
    ):
        command = events(tmp_path, nats_process, "replay", "--json", *arguments)
        assert command.finish() == 0
        assert len(command.output.splitlines()) == wanted, arguments


async def test_tail_waits_for_more_and_ends_quietly(bus: NatsBus, nats_process: AnyNats, tmp_path: Path) -> None:
    await tell(bus)
    command = events(tmp_path, nats_process, "tail", "--since", "beginning", "--json")
    await eventually(command.says("WorkerUp"), timeout=20)
    Publisher(bus, BusSettings()).worker_down(Process("w1", "tool", "1"), lost=True)
    await eventually(command.says("WorkerDown"))
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 0
    assert "Traceback" not in command.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "gestern"], "时间无法识别"),
        (["--since", "999999d"], "时间无法识别"),
        (["--event", "complete"], "there is no event 'complete'"),
        (["--event", "complete"], "没有名为 'complete' 的事件"),
        (["--project", os.fsdecode(b"\xff")], "项目编号不是 UTF-8"),
        (["--service", "x"], "there are chat, agent, rag, tool"),
    ],
)
def test_wrong_argument_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    command = Command(tmp_path, "events", "replay", *arguments, module="qingyu_ai.cli", NATS_URL="nats://127.0.0.1:1")
    assert command.finish() == 2
    assert words in command.output


class TestItsReader:
    """Whoever reads what is printed."""

    @pytest.fixture
    async def many(self, bus: NatsBus) -> int:
        """More events than a pipe holds."""
        publisher = Publisher(bus, BusSettings())
        for number in range(MANY):
            publisher.asked(call_of("张三" * 40, "p1", number), 0.25, None)

        async def stored() -> bool:
            return (await bus.jetstream.stream_info("AI_EVENTS")).state.messages == MANY

        await eventually(stored)
        return MANY

    @pytest.fixture
    def pipe(self) -> Iterator[tuple[int, int]]:
        """What it is read through: (reading, writing)."""
        ends = os.pipe()
        yield ends
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)

    async def test_one_that_stops_reading_does_not_keep_the_command_from_ending(
        self, many: int, nats_process: AnyNats, pipe: tuple[int, int]
    ) -> None:
        program = await start(nats_process, "replay", "--json", stdout=pipe[1])

        def full() -> bool:
            return int.from_bytes(fcntl.ioctl(pipe[0], termios.FIONREAD, bytes(4)), sys.byteorder) > 60_000

        await eventually(full, timeout=20)
        program.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(program.communicate(), 10)
        assert (program.returncode, err) == (0, b"")

    async def test_one_that_ends_ends_the_command(
        self, many: int, nats_process: AnyNats, pipe: tuple[int, int]
    ) -> None:
        program = await start(nats_process, "tail", "--since", "beginning", stdout=pipe[1])
        os.close(pipe[1])
        assert b"completed" in await asyncio.to_thread(os.read, pipe[0], 100)
        os.close(pipe[0])
        _, err = await asyncio.wait_for(program.communicate(), 10)
        assert (program.returncode, err) == (0, b"")

    async def test_one_without_chinese_has_it_spelt_out(self, bus: NatsBus, nats_process: AnyNats) -> None:
        await tell(bus)
        for arguments, wanted in (([], "user=\\u5f20\\u4e09"), (["--json"], '"张三"')):
            program = await start(nats_process, "replay", *arguments, PYTHONIOENCODING="ascii")
            out, _ = await asyncio.wait_for(program.communicate(), 15)
            assert program.returncode == 0
            assert wanted in out.decode()

    async def test_full_disk_is_named(self, bus: NatsBus, nats_process: AnyNats) -> None:
        await tell(bus)
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            program = await start(nats_process, "replay", stdout=full)
            _, err = await asyncio.wait_for(program.communicate(), 15)
        finally:
            os.close(full)
        assert program.returncode == 1
        assert "cannot be written: No space left on device。无法写出结果" in err.decode()


def test_output_that_is_closed_is_refused_in_one_line() -> None:
    closing = ("sh", "-c", 'exec "$@" >&-', "sh")
    command = (*closing, sys.executable, "-m", "qingyu_ai.cli", "events", "replay")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NATS_URL": "nats://127.0.0.1:1", "PYTHONUTF8": "1"}
    ended = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "standard output is closed" in line
    assert "标准输出已关闭" in line


def test_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = Command(tmp_path, "events", "tail", module="qingyu_ai.cli", NATS_URL="nats://127.0.0.1:1")
    assert command.finish(30) == 1
    assert "no NATS server at nats://127.0.0.1:1" in command.output
    assert "无法连接" in command.output
    assert "Traceback" not in command.output


def test_times_that_are_understood() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert start_of("now", now) is NOW
    assert start_of("beginning", now) is BEGINNING
    assert start_of("90s", now) == now - timedelta(seconds=90)
    assert start_of("7d", now) == now - timedelta(days=7)
    assert start_of("2026-01-31T08:00:00+08:00", now) == datetime(2026, 1, 31, tzinfo=UTC)
    for wrong in ("", "5", "5x", "999999d", "0001-01-01T00:00:00+14:00", "-5m", "2026-13-01"):
        with pytest.raises(BadTime):
            start_of(wrong, now)


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York", "UTC"])
@pytest.mark.parametrize(
    "said", ["", "yesterday", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z"]
)
def test_any_time_can_be_shown(zone: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    event = Event(Attributes("1", "/s", "t", time=said), b"", "ai.events.v1.chat.completed.none", 3, 1)
    shown = as_line(event).plain
    monkeypatch.undo()
    time.tzset()
    assert re.match(r"\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} |--\.-- --:--:--\.--- ", shown)
    assert shown.startswith("--") or "1969" in said or zone == "UTC" or shown[:5] in ("12-31", "01-01")


def test_value_that_is_longer_than_a_screen_is_cut() -> None:
    data = events_pb2.CallCompleted(finish_reason="长" * 5000).SerializeToString()
    event = Event(Attributes("1", "/s", "qingyu.ai.events.v1.CallCompleted"), data, "s", 3, 1)
    assert as_line(event).plain.endswith("长…")
    assert len(as_line(event).plain) < 400


def test_json_has_no_character_that_a_terminal_or_a_reader_of_lines_obeys() -> None:
    call = events_pb2.Call(user="a\x1b\x7f\x9b31m\x85\u2028\u2029z")
    data = events_pb2.CallCompleted(call=call).SerializeToString()
    line = as_json(Event(Attributes("1", "/s", "qingyu.ai.events.v1.CallCompleted"), data, "s", 3, 1))
    assert len(line.splitlines()) == 1
    assert all(character.isprintable() for character in line)
    assert json.loads(line)["data"]["call"]["user"] == call.user


def test_texts_that_change_how_a_line_is_read_are_spelt_out_and_chinese_stays() -> None:
    call = events_pb2.Call(user="张\u3000三\u202e\u2066\U000e0041 é", request_id="\u2067r")
    data = events_pb2.CallCompleted(call=call).SerializeToString()
    event = Event(Attributes("1", "/s", "qingyu.ai.events.v1.CallCompleted"), data, "s", 3, 1)
    line = as_json(event)
    assert '"张\u3000三\\u202e\\u2066\\udb40\\udc41 é"' in line
    assert json.loads(line)["data"]["call"]["user"] == call.user
    assert "user=张\u3000三\\u202e\\u2066\\U000e0041 é" in as_line(event).plain
    assert "request=\\u2067r" in as_line(event).plain


def test_extension_does_not_take_the_place_of_what_is_ours() -> None:
    attributes = Attributes("1", "/s", "a.v1.New", extensions={"sequence": "9", "data_base64": "x", "tenant": "t"})
    line = json.loads(as_json(Event(attributes, b"\xff", "s", 3, 1)))
    assert (line["sequence"], line["data_base64"], line["tenant"]) == ("3", "/w==", "t")


def test_message_that_is_no_event_is_shown_with_where_it_came_from() -> None:
    stray = Event(NOTHING_SAID, b"\xff", "ai.events.v1.stray", 3, 1)
    assert json.loads(as_json(stray)) == {
        "natssubject": "ai.events.v1.stray",
        "sequence": "3",
        "data_base64": "/w==",
    }


def test_event_that_this_release_cannot_read_is_shown_all_the_same() -> None:
    event = Event(Attributes("1", "/s", "a.v1.New"), b"\xff", "ai.events.v1.video.rendered.none", 3, 1)
    assert "a.v1.New, 1 bytes" in as_line(event).plain
    assert json.loads(as_json(event))["data_base64"] == "/w=="
