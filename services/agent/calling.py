"""Tool calls: from the pieces that a model streams to calls, and from calls to results, several at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from typing import Any

from qingyu_ai import tracing
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, TooLarge
from qingyu_ai.bus.handler import Call
from qingyu_ai.tracing import names
from services.llm.model import ToolCall, ToolCallDelta, Turn
from services.tool.registry import Listing

from .events import Asked, Called
from .toolbox import MARGIN_SECONDS, Toolbox, ToolResult, failed

MAX_NAME = 64
"""Characters of a tool's name, and of a call's id, as the model wrote them."""

SHOWN_BROKEN = 1000
"""Characters of broken arguments that are kept, for the caller and for the model."""

MAX_ARGUMENTS = 100_000
"""Characters of the arguments of one call: a long chapter in one of them, and no book."""

MAX_RESULT, MAX_RESULTS = 512 * 1024, 2 * 1024 * 1024
"""Bytes of one result, and of all of one execution: they are logged with the text (`bus.call_log_bytes`)."""

PATIENCE = 0.5
"""Which part of the execution's time a tool may be too busy to begin: the rest is for the model's answer without it."""

MAX_SEEN = 16_000
"""Characters of a result that the model is told: it must leave room for everything else."""

_NOT_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class Pieces:
    """Gathers the pieces of one step.

    Args:
        most: calls that are kept; what is beyond is only counted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.left_out = 0
        self._calls: list[tuple[int, list[str], list[str], list[str]]] = []
        """Index, ids, names, pieces of the arguments."""

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: ToolCallDelta) -> None:
        """Take a piece. Some servers give every call the index 0: another id is another call."""
        found = next((call for call in reversed(self._calls) if call[0] == piece.index), None)
        if found is None or (piece.id and piece.name and found[1] and piece.id not in found[1]):
            if len(self._calls) >= self._most:
                self.left_out += bool(piece.name)
                return
            found = (piece.index, [], [], [])
            self._calls.append(found)
        if piece.id:
            found[1].append(piece.id)
        if piece.name:
            found[2].append(piece.name)
        found[3].append(piece.arguments)

    @property
    def written(self) -> str:
        """All arguments, to estimate what they cost."""
        return "".join(piece for call in self._calls for piece in call[3])

    def asked(self, step: int, taken: Collection[str]) -> list[Asked]:
        """The calls, in the order in which the model made them.

        Args:
            taken: ids that other calls of the execution have: some servers count from 0 in every answer.
        """
        used = set(taken)
        found = []
        for i, (_, ids, called, pieces) in enumerate(self._calls):
            # Nine letters and digits: the strictest servers take no other ids.
            given = _NOT_A_NAME.sub("_", ids[0][:MAX_NAME]) if ids else ""
            made = (f"s{step:03d}c{number:04d}" for number in itertools.count(i))
            own = given if given and given not in used else next(one for one in made if one not in used)
            used.add(own)
            arguments, broken = _arguments("".join(pieces))
            name = (called[0] if called else "")[:MAX_NAME].encode("utf-8", "replace").decode()
            found.append(Asked(step, own, name, arguments, broken))
        return found


def _arguments(written: str) -> tuple[str, str]:
    """The arguments as a JSON object, and what the model wrote if that is none."""
    text = written.strip()
    if not text or text == "null":
        return "{}", ""
    if len(text) > MAX_ARGUMENTS:
        return "{}", text[:SHOWN_BROKEN]
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if isinstance(value, str):  # encoded twice
            value.encode()  # not with half a character: that cannot be sent on
            text, value = value, json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return text, ""
    return "{}", text[:SHOWN_BROKEN]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def history(text: str, called: Sequence[Called]) -> list[Turn]:
    """One step with its results, as the model is told of it afterwards."""
    calls = tuple(
        ToolCall(c.asked.id, _NOT_A_NAME.sub("_", c.asked.name) or "unknown", c.asked.arguments) for c in called
    )
    return [Turn("assistant", text, calls), *(Turn("tool", content_of(c), tool_call_id=c.asked.id) for c in called)]


def content_of(called: Called) -> str:
    """What the model is told of a call."""
    if called.code:
        return called.message
    if len(called.result) <= MAX_SEEN:
        return called.result
    cut = len(called.result) - MAX_SEEN
    return called.result[:MAX_SEEN] + f"……（结果过长，后面 {cut} 个字符没有显示 / {cut} more characters are not shown）"


def unknown_outcome(asked: Asked) -> Called:
    """A call whose worker was lost, of a tool that must not be called again."""
    message = (
        f"It is not known whether {asked.name} did its work: the process that called it was lost. Do not call it again / "
        f"不知道 {asked.name} 是否已经执行：调用它的进程中断了。不要为同一件事再次调用"
    )
    return Called(asked, "", 0, int(Code.UNKNOWN), message)


def out_of_time(asked: Asked, duration_ms: int) -> Called:
    """A call that runs when the execution's time is over."""
    message = f"{asked.name} was still running when the time was over / 时间用完时 {asked.name} 还在运行"
    return Called(asked, "", duration_ms, int(Code.DEADLINE_EXCEEDED), message)


class Caller:
    """Calls the tools of one execution.

    Args:
        tools: what may be called.
        most: how many at once.
        said_bytes: of the results that workers before this one had.
    """

    def __init__(self, call: Call, toolbox: Toolbox, tools: Iterable[Listing], most: int, said_bytes: int = 0) -> None:
        self._room = MAX_RESULTS - said_bytes
        self._call = call
        self._toolbox = toolbox
        self._tools: Mapping[str, Listing] = {tool.name: tool for tool in tools}
        self._most = most

    def may_again(self, asked: Asked) -> bool:
        """Whether a call may be made again when its outcome is not known. One whose arguments are broken ran no tool."""
        tool = self._tools.get(asked.name)
        return bool(asked.broken) or (tool is not None and tool.repeatable)

    async def run(self, asked: Sequence[Asked], deadline: Deadline) -> AsyncGenerator[Called, None]:
        """Call them all at once.

        Yields:
            What came of each, as they end. Those that still run at the deadline are ended, and have failed.
        """
        began = time.monotonic()
        running = {asyncio.ensure_future(self._one(one, i, deadline)): one for i, one in enumerate(asked)}
        try:
            while running:
                done, _ = await asyncio.wait(
                    running, timeout=max(0.0, deadline.remaining), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in [task for task in running if task in done]:
                    del running[task]
                    yield task.result()
            late = list(running.values())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for one in late:
            yield out_of_time(one, _since(began))

    async def _one(self, asked: Asked, position: int, deadline: Deadline) -> Called:
        began = time.monotonic()
        result = self._refused(asked, position)
        if result is None:
            result = await self._asked(asked, max(0.0, deadline.remaining))
            size = len(result.result.encode())
            if size > min(MAX_RESULT, self._room):
                limit = max(0, min(MAX_RESULT, self._room))
                result = failed(TooLarge(f"The result of {asked.name}", f"{asked.name} 的结果", size, limit))
            self._room -= len(result.result.encode())
        return Called(asked, result.result, _since(began), result.code, result.message)

    async def _asked(self, asked: Asked, left: float) -> ToolResult:
        tool = self._tools[asked.name]
        facts = {names.GEN_AI_OPERATION: "execute_tool", names.TOOL_NAME: asked.name, names.TOOL_CALL_ID: asked.id}
        with tracing.span(f"execute_tool {asked.name}", attributes=facts) as span:
            result = await self._toolbox.call(
                self._call,
                asked.name,
                asked.arguments,
                part=f"tool/{asked.id}",
                seconds=min(tool.wait_seconds + tool.seconds + MARGIN_SECONDS, left),
                patience=left * PATIENCE,
            )
            if result.code:
                span.fail(Code(result.code).name)  # what the model is told may say back what it wrote
        return result

    def _refused(self, asked: Asked, position: int) -> ToolResult | None:
        if asked.name not in self._tools:
            there = ", ".join(sorted(self._tools)) or "none / 没有"
            message = (
                f"There is no tool {asked.name!r} here; there are: {there} / 没有工具 {asked.name!r}；可用的有：{there}"
            )
            return ToolResult(code=int(Code.NOT_FOUND), message=message)
        if asked.broken:
            message = (
                f"The arguments of {asked.name} are no JSON object, or longer than {MAX_ARGUMENTS} characters: {asked.broken} / "
                f"{asked.name} 的参数不是 JSON 对象，或超过 {MAX_ARGUMENTS} 个字符，请改正后重试"
            )
            return ToolResult(code=int(Code.INVALID_ARGUMENT), message=message)
        if position >= self._most:
            message = (
                f"At most {self._most} tools at once; call the rest later / 一次最多 {self._most} 个，其余的稍后再试"
            )
            return ToolResult(code=int(Code.RESOURCE_EXHAUSTED), message=message)
        return None


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
