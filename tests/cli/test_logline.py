from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator

import pytest

from qingyu_ai.cli.logline import LONGEST_LINE, gist, lines, parse, printable


@pytest.fixture
def in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_shanghai")
def test_a_structlog_record_is_read_with_the_wall_clock_of_this_machine() -> None:
    record = {"event": "bridge is ready", "level": "info", "timestamp": "2025-03-01T00:00:01.5Z", "port": 50051}
    line = parse(json.dumps(record))
    assert line is not None
    assert (line.time, line.level, line.event, line.fields) == (
        "08:00:01",
        "info",
        "bridge is ready",
        (("port", "50051"),),
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("中文", "中文"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        ({"a": [1, "二"]}, '{"a": [1, "二"]}'),
    ],
)
def test_a_value_is_quoted_only_where_its_end_would_be_in_doubt(value: object, shown: str) -> None:
    line = parse(json.dumps({"event": "x", "key": value}))
    assert line is not None
    assert line.fields == (("key", shown),)


def test_a_traceback_is_kept_apart_from_the_fields() -> None:
    line = parse(json.dumps({"event": "x", "exception": "Traceback\n  ValueError"}))
    assert line is not None
    assert line.traceback == "Traceback\n  ValueError"
    assert line.fields == ()


def test_a_line_of_nats_server_is_read() -> None:
    line = parse("[7] 2025/11/24 07:21:22.808865 [WRN] Slow consumer")
    assert line is not None
    assert (line.time, line.level, line.event) == ("07:21:22", "warning", "Slow consumer")


@pytest.mark.parametrize("text", ["Traceback (most recent call last):", "{not json", '{"no": "event"}', "[]", "", "{}"])
def test_any_other_line_is_left_alone(text: str) -> None:
    assert parse(text) is None


def test_a_timestamp_of_another_form_stays_as_it_is() -> None:
    line = parse(json.dumps({"event": "x", "timestamp": "soon"}))
    assert line is not None
    assert line.time == "soon"


def test_a_terminal_gets_no_control_characters() -> None:
    assert printable("a\x1b[2Jb\tc\rd\x9b") == "a\\x1b[2Jb\tc\\x0dd\\x9b"


def test_a_terminal_gets_nothing_that_turns_a_text_round_and_keeps_chinese_and_blanks() -> None:
    assert printable("张\u3000三\xa0\u202e\u2066\u2028\U000e0041") == "张\u3000三\xa0\\u202e\\u2066\\u2028\\U000e0041"


async def read(*blocks: bytes) -> list[str]:
    reader = asyncio.StreamReader()
    for block in blocks:
        reader.feed_data(block)
    reader.feed_eof()
    return [line async for line in lines(reader)]


async def test_lines_are_put_together_from_blocks_that_end_anywhere() -> None:
    text = "一行\n又一行\r\n最后".encode()
    assert await read(text[:2], text[2:7], text[7:]) == ["一行", "又一行", "最后"]


async def test_last_words_without_a_newline_are_not_lost() -> None:
    assert await read(b"Killed") == ["Killed"]


async def test_a_line_without_end_comes_in_pieces() -> None:
    found = await read(b"x" * (3 * LONGEST_LINE + 5))
    assert "".join(found) == "x" * (3 * LONGEST_LINE + 5)
    assert max(map(len, found)) <= LONGEST_LINE


async def test_bytes_that_are_no_text_do_not_end_the_reading() -> None:
    assert await read(b"\xff\xfe\nnext\n") == ["��", "next"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"event": "address_taken", "level": "error", "error": "port 7 is \\"taken\\""}', 'port 7 is "taken"'),
        ('{"event": "address_taken", "error": "taken"}', "taken"),
        ('{"event": "bridge_stopped"}', "bridge_stopped"),
        ("  QINGYU_BRIDGE__PORT is empty", "QINGYU_BRIDGE__PORT is empty"),
        ("[7] 2025/11/24 07:21:22.808865 [FTL] no space left", "no space left"),
    ],
)
def test_the_gist_of_a_line_is_what_is_wrong(text: str, words: str) -> None:
    assert gist(text) == words


@pytest.mark.parametrize(
    ("level", "read"), [("LOG", "info"), ("ERROR", "error"), ("FATAL", "critical"), ("WARNING", "warning")]
)
def test_a_line_of_postgresql_is_read_with_its_level(level: str, read: str) -> None:
    line = parse(f"2026-11-28 13:45:04.693 UTC [16896] {level}:  the database system is shut down")
    assert line is not None
    assert (line.time, line.level, line.event) == ("13:45:04", read, "the database system is shut down")
