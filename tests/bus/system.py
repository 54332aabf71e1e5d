"""A small system for tests of the protocol: one caller and some workers on one broker, with handlers of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from qingyu_ai import routes
from qingyu_ai.bus import subjects
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.discovery import Presence
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import NOBODY, Observer
from qingyu_ai.bus.reading import Reading
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import Bus as BusSettings
from tests.waiting import eventually

Connect = Callable[[], Awaitable[Bus]]
"""Makes a connection to the test's broker."""

ids = itertools.count(1)


@dataclass
class System:
    """What a test has in its hands."""

    connect: Connect
    settings: BusSettings
    caller: Caller
    presence: Presence
    workers: list[Worker] = field(default_factory=list)
    buses: list[Bus] = field(default_factory=list)
    observe: Callable[[Bus], Observer] = lambda bus: NOBODY

    async def worker(
        self,
        *,
        kind: str = "chat",
        slots: int = 16,
        chat: Callable[[Call, ai.ChatRequest], Awaitable[ai.ChatResponse]] | None = None,
        stream: Callable[[Call, ai.ChatRequest], AsyncIterator[ai.ChatStreamChunk]] | None = None,
        search: Callable[[Call, rag.SearchRequest], Awaitable[rag.SearchResponse]] | None = None,
        follow_up: Callable[[str, bytes, int], Awaitable[None]] | None = None,
        continues: bool = False,
    ) -> Worker:
        """Start a worker and wait until the caller sees it."""
        bus = await self.connect()
        worker = Worker(bus, kind, self.settings, slots=slots, observer=self.observe(bus))
        if search is not None:
            worker.rpc(routes.SEARCH, search)
        if chat is not None:
            worker.job(routes.CHAT, chat, follow_up, notes=ai.ChatStreamChunk if continues else None)
        if stream is not None:
            worker.stream(routes.CHAT_STREAM, stream, follow_up, continues=continues)
        await worker.start()
        self.workers.append(worker)
        self.buses.append(bus)
        await eventually(lambda: any(w.id == worker.token for w in self.presence.workers()))
        return worker

    def envelope(
        self, route: routes.Route[Any, Any], body: bytes, *, seconds: float = 10, request_id: str = "", user: str = "u1"
    ) -> Envelope:
        """The envelope that a bridge would make."""
        request_id = request_id or f"req_{next(ids)}"
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        call = subjects.call_id(user, route.method, request_id)
        return Envelope(call, request_id, Deadline.after(seconds), user=user, digest=digest)

    async def ask(self, query: str, *, seconds: float = 5) -> rag.SearchResponse:
        """Call the rpc row Search."""
        body = rag.SearchRequest(query=query).SerializeToString()
        envelope = self.envelope(routes.SEARCH, body, seconds=seconds)
        return rag.SearchResponse.FromString(
            await self.caller.ask(routes.SEARCH, routes.SEARCH.subject, body, envelope)
        )

    async def submit(
        self, text: str, *, stream: bool = False, seconds: float = 10, request_id: str = "", user: str = "u1"
    ) -> Reading:
        """Submit a chat."""
        route: routes.Route[Any, Any] = routes.CHAT_STREAM if stream else routes.CHAT
        body = ai.ChatRequest(messages=[common.Message(role="user", content=text)]).SerializeToString()
        envelope = self.envelope(route, body, seconds=seconds, request_id=request_id, user=user)
        return await self.caller.submit(route, route.subject, body, envelope, chosen=bool(request_id))

    async def chat(self, text: str, **more: Any) -> ai.ChatResponse:
        """Submit a chat and wait for its answer."""
        reading = await self.submit(text, **more)
        try:
            end = await reading.wait_end()
        finally:
            self.caller.close(reading)
        assert not end.status
        return ai.ChatResponse.FromString(end.answer)

    async def stream(self, text: str, **more: Any) -> str:
        """Submit a chat stream and read it to its end."""
        reading = await self.submit(text, stream=True, **more)
        try:
            return await read(reading)
        finally:
            self.caller.close(reading)


async def read(reading: Reading) -> str:
    """Read a stream to its end: the text, which must have exactly one final chunk, the last."""
    chunks: list[ai.ChatStreamChunk] = []
    while taken := await reading.take():
        chunks += [ai.ChatStreamChunk.FromString(encoded) for encoded, _ in taken]
    assert reading.end is not None
    if not reading.end.status:
        assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
    return "".join(c.delta for c in chunks)


async def open_system(
    connect: Connect, settings: BusSettings, observe: Callable[[Bus], Observer] = lambda bus: NOBODY
) -> System:
    """Start the asking side."""
    bus = await connect()
    observer = observe(bus)
    presence = Presence(bus, f"{bus.inbox}.srv.presence", observer)  # type: ignore[attr-defined]
    caller = Caller(bus, settings, presence, observer)
    await presence.start()
    await caller.start()
    return System(connect, settings, caller, presence, observe=observe)


async def close_system(system: System) -> None:
    """Stop everything that still runs, and see that nothing is left."""
    for worker in system.workers:
        if not worker.draining:
            await worker.drain(1)
    await eventually(lambda: not system.caller.readers.tasks)
    assert not system.caller.readers._open
    await system.caller.stop()
    await system.presence.stop()


async def vanish(worker: Worker) -> None:
    """As a kill does: no acknowledgement, no sign of life, no farewell. What its handlers still say is said."""
    assert worker._clock is not None
    worker._clock.cancel()
    await worker.jobs.stop()


async def echo(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
    """Send the last message back."""
    return ai.ChatResponse(message=common.Message(role="assistant", content=request.messages[-1].content))


async def spell(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
    """Send the last message back, a character at a time."""
    for character in request.messages[-1].content:
        await asyncio.sleep(0)
        yield ai.ChatStreamChunk(delta=character)
    yield ai.ChatStreamChunk(is_final=True)


async def stopped_stream(system: System, ended: asyncio.Event) -> None:
    """Start a worker whose stream says a word and waits until it is stopped."""

    async def forever(call: Call, request: ai.ChatRequest) -> AsyncIterator[ai.ChatStreamChunk]:
        try:
            yield ai.ChatStreamChunk(delta="开头")
            await asyncio.sleep(60)
        finally:
            ended.set()

    await system.worker(stream=forever)
