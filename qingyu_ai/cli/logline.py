"""Read what a child writes: bytes into lines, and lines into the parts of a log record."""

from __future__ import annotations

import asyncio
import json
import re
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

LONGEST_LINE = 64 * 1024
"""Bytes. A longer line is handed on in pieces: a child must not fill the supervisor's memory."""

_NATS = re.compile(r"^\[\d+\] \d{4}/\d\d/\d\d (\d\d:\d\d:\d\d)(?:\.\d+)? \[([A-Z]{3})\] ?(.*)$")
_NATS_LEVELS = {"TRC": "debug", "DBG": "debug", "INF": "info", "WRN": "warning", "ERR": "error", "FTL": "critical"}
_POSTGRES = re.compile(r"^\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d)(?:\.\d+)? \S+ \[\d+\] ([A-Z]+\d?): +(.*)$")
_POSTGRES_LEVELS = {"WARNING": "warning", "ERROR": "error", "FATAL": "critical", "PANIC": "critical"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log record as a person reads it."""

    time: str
    level: str
    event: str
    fields: tuple[tuple[str, str], ...] = ()
    traceback: str = ""


def parse(text: str) -> LogLine | None:
    """Read one line of structlog's JSON, of nats-server's log or of PostgreSQL's; None for anything else."""
    if text.startswith("{"):
        return _from_json(text)
    if match := _NATS.match(text):
        time, level, event = match.groups()
        return LogLine(time, _NATS_LEVELS.get(level, "info"), event)
    if match := _POSTGRES.match(text):
        time, level, event = match.groups()
        return LogLine(time, _POSTGRES_LEVELS.get(level, "info"), event)
    return None


def gist(text: str) -> str:
    """What a line says, without its time and level: of an error, what is wrong."""
    line = parse(text)
    if line is None:
        return text.strip()
    error = dict(line.fields).get("error", "")
    return str(json.loads(error)) if error.startswith('"') else error or line.event


def printable(text: str) -> str:
    """Spell out what is not shown: a log line holds other people's text, and a terminal obeys such characters."""
    return text if text.isprintable() else "".join(c if c == "\t" or is_shown(c) else _spelt(c) for c in text)


def is_shown(character: str) -> bool:
    """Whether it is a letter, a sign or a blank of any script: nothing that moves the cursor, or turns the text round."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield what a child writes line by line, its last words too when no newline follows them."""
    rest = b""
    while block := await reader.read(LONGEST_LINE):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield _decode(line)
        while len(rest) >= LONGEST_LINE:
            piece, rest = rest[:LONGEST_LINE], rest[LONGEST_LINE:]
            yield _decode(piece)
    if rest:
        yield _decode(rest)


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "replace")


def _from_json(text: str) -> LogLine | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict) or "event" not in record:
        return None
    level = str(record.pop("level", "info"))
    event = _value(record.pop("event"), bare=True)
    time = _clock(str(record.pop("timestamp", "")))
    traceback = str(record.pop("exception", ""))
    fields = tuple((str(k), _value(v)) for k, v in record.items())
    return LogLine(time, level, event, fields, traceback)


def _clock(timestamp: str) -> str:
    """`2025-01-01T08:00:00.5Z` → the wall clock here; a form that is not ISO 8601 stays as it is."""
    try:
        return datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return timestamp


def _value(value: object, *, bare: bool = False) -> str:
    """Quote a text only where its end would be in doubt."""
    if isinstance(value, str) and (bare or (value and not re.search(r"[\s\"=]", value))):
        return value
    return json.dumps(value, ensure_ascii=False)
