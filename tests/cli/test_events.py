"""`qingyu-ai events`: on a real broker, in a process of its own."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
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
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST, clean
from tests.cli.command import Command
from tests.nats_cluster import AnyNats
from tests.waiting import eventually


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
        (["--event", "complete"], "there is no event 'complete'"),
        (["--service", "x"], "there are chat, agent, rag, tool"),
    ],
)
def test_wrong_argument_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    command = Command(tmp_path, "events", "replay", *arguments, module="qingyu_ai.cli", NATS_URL="nats://127.0.0.1:1")
    assert command.finish() == 2
    assert words in command.output


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
    for wrong in ("", "5", "5x", "-5m", "2026-13-01"):
        with pytest.raises(BadTime):
            start_of(wrong, now)


def test_event_that_this_release_cannot_read_is_shown_all_the_same() -> None:
    event = Event(Attributes("1", "/s", "a.v1.New"), b"\xff", "ai.events.v1.video.rendered.none", 3, 1)
    assert "a.v1.New, 1 bytes" in as_line(event).plain
    assert json.loads(as_json(event))["data_base64"] == "/w=="
