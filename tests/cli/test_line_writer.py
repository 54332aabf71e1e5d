"""Lines for somebody who stops reading, goes away, or is a file on a disk that fails."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import termios

import pytest

from qingyu_ai.cli.line_writer import LineWriter, NotWritten
from tests.waiting import eventually

LINE = b"x" * 999 + b"\n"
MANY = 200
"""Lines that are more than a pipe holds."""


def held(pipe: int) -> int:
    """Bytes that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("blocking", [True, False])
async def test_one_that_rests_is_waited_for_and_gets_every_line(blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    writer = LineWriter(writing)
    try:

        async def write() -> None:
            for _ in range(MANY):
                await writer.write(LINE)

        task = asyncio.create_task(write())
        os.set_blocking(reading, False)
        await eventually(lambda: held(reading) > 60_000 or task.done())
        assert not task.done()
        found = bytearray()

        def read() -> bool:
            try:
                found.extend(os.read(reading, 100_000))
            except BlockingIOError:
                assert not task.done() or not task.exception()
            return len(found) >= MANY * len(LINE)

        await eventually(read)
        await asyncio.wait_for(task, 10)
        assert bytes(found) == LINE * MANY
    finally:
        os.close(reading)
        os.close(writing)


async def test_one_that_rests_does_not_keep_the_writer_from_being_stopped() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = LineWriter(writing)
    task = asyncio.create_task(writer.write(LINE * MANY))
    try:
        await eventually(lambda: held(reading) > 60_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        await asyncio.wait_for(writer.close(), 10)
    finally:
        os.close(reading)  # which ends the write that is under way
        await eventually(lambda: writer.gone)
        os.close(writing)


async def test_terminal_that_was_closed_ends_it_quietly() -> None:
    terminal, shown = os.openpty()
    writer = LineWriter(shown)
    os.close(terminal)
    try:
        await asyncio.wait_for(writer.write(LINE), 10)
        assert writer.gone
    finally:
        os.close(shown)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file here whose writing fails with EIO")
async def test_disk_that_fails_is_named() -> None:
    failing = os.open("/proc/self/mem", os.O_WRONLY)  # nothing is mapped at 0: EIO
    try:
        with pytest.raises(NotWritten, match="Input/output error。无法写出结果"):
            await asyncio.wait_for(LineWriter(failing).write(LINE), 10)
    finally:
        os.close(failing)
