"""Runs computed tools in child processes: a bounded number of them, kept between calls, replaced when a call goes wrong.

    async with Sandbox(TOOLS, children=2) as sandbox:
        text = await sandbox.run(text_statistics, '{"text": "……"}')

The children are started by `subprocess` semantics (fork and exec at once), never by a bare fork: the worker has threads. What
they can and cannot reach is in docs/tools.md. It is a guard against mistakes; tools are code of the platform's own teams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from . import child as kinds
from .child import HEAD
from .definition import Tool
from .errors import (
    OutOfMemory,
    OutputTooLarge,
    SandboxBusy,
    SandboxUnavailable,
    ToolDefect,
    ToolDied,
    ToolFailed,
    ToolTimeout,
)
from .turns import NoTurn, Turns

log = structlog.get_logger(__name__)

MIB = 1024 * 1024

START_SECONDS = 30.0
"""For a child to import the tools: a third of a second on an idle machine."""

CALLS_OF_A_CHILD = 1000
"""After so many a child is replaced, with whatever its tools have leaked."""

LARGEST_OTHER = 64 * 1024
"""Bytes of a frame that is no result: a traceback, a reason."""

_CHILD = Path(__file__).with_name("child.py")


class _Ended(Exception):
    """The child ended, or does not keep to the protocol."""


class _Child:
    """One process."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._calls = process.stdin
        self._answers = process.stdout
        self.served = 0

    async def exchange(self, message: Mapping[str, Any], most: int) -> tuple[str, str]:
        """Send a frame and read the answer.

        Args:
            most: bytes of the answer.

        Raises:
            _Ended: there is no answer, or it is longer than that.
        """
        body = json.dumps(message, ensure_ascii=False).encode()
        try:
            self._calls.write(HEAD.pack(len(body)) + body)
            await self._calls.drain()
            (size,) = HEAD.unpack(await self._answers.readexactly(HEAD.size))
            if not 0 < size <= most:
                raise _Ended
            answer = (await self._answers.readexactly(size)).decode()
        except (OSError, asyncio.IncompleteReadError, UnicodeDecodeError):
            raise _Ended from None
        return answer[0], answer[1:]

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._calls.close()
        await self.process.wait()


class Sandbox:
    """A pool of children that run the computed ones of some tools.

    Args:
        tools: those that it may be asked for. The children import their modules.
        children: the most there are at a time; calls beyond them wait, and users take turns. None is started before it is needed.
        wait_seconds: how long a call waits for one.
        memory_bytes: that a call may map, besides the interpreter and the tools.
        settings: by tool name, what its `prepare` function is given in each child. JSON-able.

    Raises:
        ValueError: there are settings for a tool that is not among them.
    """

    def __init__(
        self,
        tools: Iterable[Tool[Any, Any]],
        *,
        children: int = 2,
        wait_seconds: float = 10.0,
        memory_bytes: int = 256 * MIB,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._tools = {tool.name: tool for tool in tools if tool.is_computed}
        if unknown := set(settings or ()) - set(self._tools):
            raise ValueError(f"settings for tools that this sandbox does not run: {', '.join(sorted(unknown))}")
        self._memory_bytes = memory_bytes
        self._start_message = {
            # Absolute: the child starts in a directory of its own.
            "path": [os.path.abspath(entry) for entry in sys.path],
            "tools": {name: tool.module for name, tool in self._tools.items()},
            "settings": dict(settings or {}),
            "memory_bytes": memory_bytes,
        }
        self._children = children
        self._turns = Turns(children)
        self.wait_seconds = wait_seconds
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self._told = False
        self._directory = tempfile.TemporaryDirectory(prefix="qingyu-tool-", ignore_cleanup_errors=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start a child now, so that tools that cannot be imported or set up are told at the worker's start.

        Raises:
            SandboxUnavailable: it does not start. The log says why.
        """
        async with self._turn("", "the first one"):
            self._idle.append(await self._take())

    async def close(self) -> None:
        """Kill all children. Calls that still run end with ToolDied."""
        self._closed = True
        for child in [*self._idle, *self._busy]:
            self._end(child)
        self._idle.clear()
        while self._busy or self._ending:
            await asyncio.gather(*self._ending)
            await asyncio.sleep(0)  # for the calls of the busy ones to hear of it
        self._directory.cleanup()

    @property
    def pids(self) -> list[int]:
        """The process ids of the children there are."""
        return [child.process.pid for child in [*self._idle, *self._busy]]

    async def run(self, tool: Tool[Any, Any], parameters: str, user: str = "") -> str:
        """Run a computed tool. To cancel it kills its child.

        `tool.seconds` count from when a child takes the call; before that it may wait for one, `wait_seconds` at most.

        Args:
            user: whose call it is: users take turns.

        Returns:
            The result, as JSON.

        Raises:
            ToolError: one of its kinds, each safe to show. SandboxBusy: it did not run.
            KeyError: the sandbox was made without this tool.
        """
        tool = self._tools[tool.name]
        tool.read(parameters)
        async with self._turn(user, tool.name):
            child = await self._take()
            self._busy.add(child)
            reusable = False
            try:
                kind, said = await self._exchange(child, tool, parameters)
                reusable = kind != kinds.NO_MEMORY
            finally:
                self._busy.discard(child)
                child.served += 1
                if reusable and child.served < CALLS_OF_A_CHILD and not self._closed:
                    self._idle.append(child)
                else:
                    self._end(child)
        return self._result(tool, kind, said)

    @contextlib.asynccontextmanager
    async def _turn(self, user: str, tool: str) -> AsyncIterator[None]:
        try:
            async with self._turns.place(user, self.wait_seconds):
                yield
        except NoTurn:
            log.info("tool_sandbox_busy", tool=tool, waiting=self._turns.waiting, wait_seconds=self.wait_seconds)
            raise SandboxBusy(self._children, self.wait_seconds) from None

    async def _take(self) -> _Child:
        """Take an idle child or start one.

        Raises:
            SandboxUnavailable: the sandbox is closed, or the child does not start.
        """
        if self._closed:
            raise SandboxUnavailable
        while self._idle:
            child = self._idle.pop()
            if child.process.returncode is None:
                return child
            self._end(child)  # the system ended it while nobody needed it
        return await self._start()

    async def _exchange(self, child: _Child, tool: Tool[Any, Any], parameters: str) -> tuple[str, str]:
        message = {"tool": tool.name, "parameters": parameters}
        try:
            async with asyncio.timeout(tool.seconds):
                return await child.exchange(message, max(tool.max_output_bytes + 1, LARGEST_OTHER))
        except TimeoutError:
            log.warning("tool_timed_out", tool=tool.name, seconds=tool.seconds, pid=child.process.pid)
            raise ToolTimeout(tool.name, tool.seconds) from None
        except _Ended:
            log.warning("tool_child_died", tool=tool.name, pid=child.process.pid)
            raise ToolDied(tool.name) from None

    def _result(self, tool: Tool[Any, Any], kind: str, said: str) -> str:
        match kind:
            case kinds.RESULT if (size := len(said.encode())) > tool.max_output_bytes:
                raise OutputTooLarge(tool.name, size, tool.max_output_bytes)
            case kinds.RESULT:
                return said
            case kinds.FAILED:
                raise ToolFailed(*json.loads(said))
            case kinds.TOO_LARGE:
                raise OutputTooLarge(tool.name, int(said), tool.max_output_bytes)
            case kinds.NO_MEMORY:
                raise OutOfMemory(tool.name, self._memory_bytes)
            case _:
                error_id = secrets.token_hex(6)
                log.error("tool_failed", tool=tool.name, error_id=error_id, traceback=said)
                raise ToolDefect(tool.name, error_id)

    async def _start(self) -> _Child:
        """Start a child and have it import the tools.

        Raises:
            SandboxUnavailable: it does not start. The log says why.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD), str(os.getpid()),
                stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=self._directory.name, env={},
            )  # fmt: skip
        except OSError as error:
            log.error("tool_child_not_started", error=str(error))
            raise SandboxUnavailable from None
        child = _Child(process)
        ready = False
        try:
            async with asyncio.timeout(START_SECONDS):
                kind, said = await child.exchange(self._start_message, LARGEST_OTHER)
            ready = kind == kinds.READY
            if not ready:
                log.error("tool_child_not_started", traceback=said)
            elif said and not self._told:
                self._told = True
                log.warning("tool_sandbox_is_weaker", missing=said)
        except (TimeoutError, _Ended) as error:
            log.error("tool_child_not_started", error=repr(error))
        finally:
            ready = ready and not self._closed  # it may have been closed meanwhile
            if not ready:
                self._end(child)
        if not ready:
            raise SandboxUnavailable
        return child

    def _end(self, child: _Child) -> None:
        task = asyncio.create_task(child.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
