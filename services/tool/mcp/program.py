"""A server that is a program of ours to start: its standard input and output are the way to it.

The package has such a transport, too. This one gives the program the environment that the settings say and nothing else, ends it
with the worker however that ends, and bounds what a message may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
import structlog
from mcp.shared.message import SessionMessage

from qingyu_ai.cli.process import tethered
from qingyu_ai.settings import McpServer

from .lines import Heard, Streams, hear, say

log = structlog.get_logger(__name__)

END_SECONDS = 1.0
"""For a program to end by itself, once its input is closed."""

LAST_WORDS = 500
"""Characters of what a program said on standard error that are logged when it ends."""


@contextlib.asynccontextmanager
async def program(
    name: str, settings: McpServer, environment: Mapping[str, str], on_end: Callable[[], None]
) -> AsyncIterator[Streams]:
    """Run a server's program, until the block is left.

    Args:
        environment: all that it gets.
        on_end: told once, when the program says no more.

    Raises:
        OSError: no process can be started. (A program that is not there is one that ends at once.)
    """
    process = await asyncio.create_subprocess_exec(
        # The tether becomes the program, and has the kernel kill it when the worker dies.
        *tethered((settings.command, *settings.args)),
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env=dict(environment), start_new_session=True,
        limit=settings.max_message_bytes,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    heard_in, heard = anyio.create_memory_object_stream[Heard](0)
    to_say, said = anyio.create_memory_object_stream[SessionMessage](0)
    words = _LastWords()
    tasks = [
        asyncio.create_task(hear(name, process.stdout, heard_in, on_end)),
        asyncio.create_task(say(process.stdin, said, heard_in)),
        asyncio.create_task(words.listen(process)),
    ]
    try:
        yield heard, to_say
    finally:
        ended_itself = process.returncode is not None or process.stdout.at_eof()
        for stream in (heard, to_say, heard_in, said):
            stream.close()
        await _whatever_comes(asyncio.create_task(_end(process, tasks)))
        if ended_itself:
            log.warning("mcp_program_ended", server=name, status=process.returncode, said=words.text)


class _LastWords:
    """The end of what a program says on standard error."""

    def __init__(self) -> None:
        self._said = b""

    @property
    def text(self) -> str:
        return self._said.decode("utf-8", "replace").strip()

    async def listen(self, process: Process) -> None:
        assert process.stderr is not None
        while some := await process.stderr.read(4096):
            self._said = (self._said + some)[-LAST_WORDS:]


async def _whatever_comes(ending: asyncio.Task[None]) -> None:
    """Wait for a task also when the waiting is cancelled: a program that is not waited for is left behind."""
    cancelled = False
    with anyio.CancelScope(shield=True):
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def _end(process: Process, tasks: list[asyncio.Task[None]]) -> None:
    """Close its input, wait a moment, then kill it with all that it has started. Every wait is bounded."""
    assert process.stdin is not None
    process.stdin.close()
    await _gone(process)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.wait(tasks, timeout=END_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=END_SECONDS)
    await _gone(process)


async def _gone(process: Process) -> None:
    """Wait until a process has ended and nobody holds its pipes; a while at most: what it started may live on and hold them."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), END_SECONDS)
