"""The work of `qingyu-ai events`: read events, print them, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TextIO

from rich.text import Text

from qingyu_ai.doors.login import Login
from qingyu_ai.events import BEGINNING, NOW, Subscription, Unreachable, subscribe
from qingyu_ai.events.subscribing import Since
from qingyu_ai.settings import Log, Settings
from qingyu_ai.telemetry import configure_logging

from .console import Terminal, complain
from .event_lines import as_json as json_line
from .event_lines import as_line, message_of
from .exits import USAGE_STATUS
from .interrupt import Interrupt
from .line_writer import LineWriter, NotWritten

FAILED_STATUS = 1

AGO = re.compile(r"(\d{1,6})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class BadTime(ValueError):
    """A time that is none. The message says what is one, in English and Chinese."""


async def show(
    settings: Settings,
    service: list[str] | None,
    event: list[str] | None,
    project: list[str] | None,
    user: str,
    since: str,
    as_json: bool,
    *,
    follow: bool,
) -> int:
    """Print events.

    Args:
        service, event, project: only of these; None: of all.
        user: only of this one; empty: of all.
        since: as `start_of` takes it.
        follow: wait for more, until a signal comes.

    Returns:
        The exit status.
    """
    if sys.stdout is None:  # `>&-`
        complain(["the standard output is closed: give the events somewhere to go。标准输出已关闭，请指定输出位置"])
        return USAGE_STATUS
    configure_logging(Log(level="warning", format="console"), "events", sys.stderr)
    try:
        subscription = subscribe(
            settings.nats.servers,
            since=start_of(since, datetime.now(UTC)),
            service=service or (),
            event=event or (),
            project=project or (),
            typed=False,
            follow=follow,
            login=Login.of("events", settings.nats),
        )
    except ValueError as e:
        complain([str(e)])
        return USAGE_STATUS
    interrupt = Interrupt()
    with interrupt.listening():
        printing = asyncio.create_task(_print(subscription, user, as_json=as_json))
        asked = asyncio.create_task(interrupt.asked.wait())
        try:
            await asyncio.wait((printing, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            printing.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await printing
        except (Unreachable, NotWritten) as e:
            complain([str(e)])
            return FAILED_STATUS
    return 0


class Rendering(io.StringIO):
    """Makes bytes of lines, with colours if a terminal is to show them."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self._shown = shown
        self._terminal = Terminal(self)

    def isatty(self) -> bool:
        """Whether it is for a terminal."""
        return self._shown.isatty()

    def line(self, text: Text) -> bytes:
        """One line; what its reader's encoding does not have is spelt out."""
        self._terminal.print(text)
        made = self.getvalue().encode(self._shown.encoding, "backslashreplace")
        self.seek(0)
        self.truncate()
        return made


async def _print(subscription: Subscription, user: str, *, as_json: bool) -> None:
    rendering, writer = Rendering(sys.stdout), LineWriter(sys.stdout.fileno())
    try:
        async with subscription:
            async for one in subscription:
                if user:
                    call = getattr(message_of(one), "call", None)
                    if call is None or call.user != user:
                        continue
                # JSON is UTF-8, whatever a terminal has.
                line = f"{json_line(one)}\n".encode() if as_json else rendering.line(as_line(one))
                await writer.write(line)
                if writer.gone:
                    return
    finally:
        await writer.close()


def start_of(text: str, now: datetime) -> Since:
    """Read where to begin.

    Args:
        text: `now`, `beginning`, a time in ISO 8601 (local unless it says otherwise), or how long ago: 30s, 10m, 2h, 7d.

    Raises:
        BadTime: it is none of these.
    """
    if text in ("now", "beginning"):
        return NOW if text == "now" else BEGINNING
    try:
        if ago := AGO.fullmatch(text):
            return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadTime(
            f"--since {text!r} is no time: say 30s, 10m, 2h, 7d, 2026-01-31T08:00 or beginning。"
            "时间无法识别，例如 10m、2h、2026-01-31T08:00"
        ) from None
