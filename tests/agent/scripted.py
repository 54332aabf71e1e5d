"""A model and tools that do what a test says, for tests of the loop. The real model client is tested in test_upstream.py."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.agent.library import open_library
from services.agent.service import AgentService
from services.agent.toolbox import ToolResult
from services.llm.faults import Upstream, UpstreamFault
from services.llm.gate import NewGate
from services.llm.model import NEVER, STOP, TOOL_CALLS, Delta, Finish, Model, Prompt, ToolCallDelta, Usage
from services.llm.offer import Offer
from services.tool.registry import Listing

LIBRARY = open_library()

BUSY = UpstreamFault(Upstream.FAILED, "scripted")
REFUSED = UpstreamFault(Upstream.KEY_REFUSED, "scripted")

COST = Usage(100, 10, estimated=False)

Answer = Sequence[Delta | Exception | float]
"""What the model does in one request: says, fails, waits so many seconds."""

Script = Callable[[Prompt, int], Answer]
"""(prompt, number of the request from 1) → what it does."""


def says(text: str, *, size: int = 4, finish: Finish = STOP, usage: Usage | None = COST, reasoning: str = "") -> Answer:
    """A whole answer."""
    pieces = [Delta(text[i : i + size]) for i in range(0, len(text), size)]
    thought = [Delta(reasoning=reasoning)] if reasoning else []
    return [*thought, *pieces, Delta(finish=finish, usage=usage, model="scripted")]


def calls(*asked: tuple[str, Any], text: str = "", usage: Usage | None = COST) -> Answer:
    """An answer that calls tools: (name, arguments as JSON value or, if a text, as they are)."""
    pieces = []
    for i, (name, arguments) in enumerate(asked):
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        pieces.append(Delta(tool_calls=(ToolCallDelta(i, f"id{i}", name),)))
        pieces += [
            Delta(tool_calls=(ToolCallDelta(i, arguments=written[at : at + 5]),)) for at in range(0, len(written), 5)
        ]
    said = [Delta(text)] if text else []
    return [*said, *pieces, Delta(finish=TOOL_CALLS, usage=usage, model="scripted")]


class ScriptedModel:
    """Implements `Model`."""

    name = "scripted"

    def __init__(self, *answers: Answer, script: Script | None = None) -> None:
        """Answer by a list, whose last entry is repeated, or by a function."""
        self._script = script or (lambda prompt, number: answers[min(number, len(answers)) - 1])
        self.prompts: list[Prompt] = []
        self.open = 0

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        """See `Model.stream`."""
        self.prompts.append(prompt)
        if prompt.requests is not None:
            prompt.requests.made += 1
        self.open += 1
        try:
            for step in self._script(prompt, len(self.prompts)):
                match step:
                    case Exception():
                        raise step
                    case Delta():
                        yield step
                    case seconds:
                        await asyncio.sleep(seconds)
        finally:
            self.open -= 1


def listing(name: str, *, repeatable: bool = True, seconds: float = 5.0) -> Listing:
    """A tool as it is announced."""
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return Listing(
        name=name,
        description=f"工具 {name}",
        category="text",
        json_schema=schema,
        repeatable=repeatable,
        seconds=seconds,
        digest=name,
    )


Function = Callable[[dict[str, Any]], Awaitable[ToolResult]]


async def counts(arguments: dict[str, Any]) -> ToolResult:
    """A tool that works."""
    return ToolResult(json.dumps({"zi": len(arguments.get("text", ""))}))


@dataclass
class Box:
    """Implements `Toolbox`."""

    tools: dict[str, Function] = field(default_factory=dict)
    listings: dict[str, Listing] = field(default_factory=dict)
    made: list[tuple[str, str, str]] = field(default_factory=list)
    """(name, arguments, part) of each call."""
    given: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, patience) of each call."""
    running: int = 0
    most: int = 0
    """That ran at once."""

    def with_tool(self, name: str, function: Function = counts, **more: Any) -> Box:
        """Add one."""
        self.tools[name] = function
        self.listings[name] = listing(name, **more)
        return self

    async def settle(self, names: Any) -> None:
        """See `Toolbox.settle`."""

    def find(self, name: str) -> Listing | None:
        """See `Toolbox.find`."""
        return self.listings.get(name)

    @property
    def names(self) -> list[str]:
        """See `Toolbox.names`."""
        return sorted(self.listings)

    async def call(
        self, call: Call, name: str, arguments: str, *, part: str, seconds: float, patience: float
    ) -> ToolResult:
        """See `Toolbox.call`."""
        self.made.append((name, arguments, part))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            self.given.append((seconds, patience))
            async with asyncio.timeout(seconds):
                return await self.tools[name](json.loads(arguments))
        except TimeoutError:
            return ToolResult(code=4, message="late / 超时")
        finally:
            self.running -= 1


def two_tools() -> Box:
    """A box with two tools of every deployment."""
    return Box().with_tool("text_statistics").with_tool("repeated_phrases")


numbers = itertools.count(1)


def new_call(seconds: float = 60, said: Sequence[ai.AgentStreamChunk] = ()) -> Call:
    """A call as a worker sees it."""
    number = next(numbers)
    deadline = Deadline.after(seconds)
    return Call(f"{number:032x}", f"req{number}", "u1", "p1", (), deadline, "", said=tuple(said))


def request(agent_type: str = "creative", task: str = "续写下一段", **more: Any) -> ai.AgentRequest:
    """A request."""
    return ai.AgentRequest(agent_type=agent_type, task=task, user_id="u1", **more)


@dataclass
class Lab:
    """A service with one model."""

    model: Model
    box: Box = field(default_factory=Box)
    new_gate: NewGate | None = None

    @property
    def service(self) -> AgentService:
        """The service."""
        return AgentService(Offer({self.model.name: self.model}, self.model.name, self.new_gate), LIBRARY, self.box)

    async def stream(self, asked: ai.AgentRequest, call: Call | None = None) -> list[ai.AgentStreamChunk]:
        """All chunks of a stream, numbered as the bus does."""
        call = call or new_call()
        chunks: list[ai.AgentStreamChunk] = []
        async with aclosing(self.service.execute_stream(call, asked)) as stream:
            async for chunk in stream:
                chunk.metadata["seq"] = str(len(call.said) + len(chunks))
                chunks.append(chunk)
        return chunks

    async def ask(self, asked: ai.AgentRequest, call: Call | None = None) -> ai.AgentResponse:
        """The answer in one piece."""
        return await self.service.execute(call or new_call(), asked)


def text_of(chunks: Sequence[ai.AgentStreamChunk]) -> str:
    """The text of a stream."""
    return "".join(chunk.delta for chunk in chunks if chunk.chunk_type == "text")


def kinds(chunks: Sequence[ai.AgentStreamChunk]) -> list[str]:
    """The types of a stream's chunks, neighbours of one type once."""
    return [kind for kind, _ in itertools.groupby("final" if c.is_final else c.chunk_type for c in chunks)]
