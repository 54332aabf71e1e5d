"""How long a stream may be silent, and that one which goes on is not cut off; attempts are counted at the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import CHAT_STREAM, EXECUTE_AGENT_STREAM
from services.proxy import protection
from services.proxy.breaker import State
from services.proxy.errors import TIMEOUT, AIProxyError
from services.proxy.models import AgentOptions, AgentRequest, ChatRequest, Message
from services.proxy.service import AIProxyService
from tests.proxy.conftest import ME, Peer, Start
from tests.waiting import eventually

ASKED = ChatRequest(messages=[Message(role="user", content="问")])
TEXT = "灯灭之前，不许过河。"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt waits for its turn."""
    monkeypatch.setattr(protection, "BACKOFF_FIRST", 0.001)


async def whole(*_: Any) -> AsyncIterator[ai.ChatStreamChunk]:
    yield ai.ChatStreamChunk(delta=TEXT)
    yield ai.ChatStreamChunk(is_final=True)


class Halting:
    """Says one more character of the text in each attempt, then nothing; the whole rest in the last one."""

    def __init__(self, peer: Peer, attempts: int) -> None:
        self._peer = peer
        self._attempts = attempts
        self.stopped = 0

    async def stream(self, _: bytes, context: Any) -> AsyncIterator[ai.ChatStreamChunk]:
        at = int(self._peer.calls[-1][1].get("x-resume-from", "0"))
        if self._peer.count(CHAT_STREAM) == self._attempts:
            yield ai.ChatStreamChunk(delta=TEXT[at:])
            yield ai.ChatStreamChunk(is_final=True)
            return
        try:
            yield ai.ChatStreamChunk(delta=TEXT[at])
            await asyncio.Event().wait()
        finally:
            self.stopped += 1


async def text_of(service: AIProxyService, **how: Any) -> str:
    async with aclosing(service.chat_stream(ASKED, ME, **how)) as chunks:
        return "".join([chunk.delta async for chunk in chunks])


async def test_stream_has_no_time_but_its_callers(peer: Peer, start: Start) -> None:
    """The time of an attempt is not the time of a stream: a chapter takes longer than a minute to write."""
    peer.on(CHAT_STREAM, whole)
    service = await start(peer.port, timeout="20s")
    assert await text_of(service) == TEXT
    assert await text_of(service, deadline=Deadline.after(100)) == TEXT
    without, with_one = (left for method, _, left in peer.calls if method == CHAT_STREAM.path)
    assert without is None
    assert with_one is not None
    assert 60 < with_one <= 102


async def test_agent_that_ends_at_its_own_time_has_that_and_a_little_more(peer: Peer, start: Start) -> None:
    async def work(*_: Any) -> AsyncIterator[ai.AgentStreamChunk]:
        yield ai.AgentStreamChunk(is_final=True, chunk_type="text", metadata={"seq": "0", "status": "timeout"})

    peer.on(EXECUTE_AGENT_STREAM, work)
    service = await start(peer.port, timeout="1s")
    request = AgentRequest(agent_type="plot", task="写", options=AgentOptions(timeout_seconds=30))
    async with aclosing(service.execute_agent_stream(request, ME)) as chunks:
        [chunk] = [chunk async for chunk in chunks]
    assert chunk.metadata["status"] == "timeout"
    [left] = [left for method, _, left in peer.calls if method == EXECUTE_AGENT_STREAM.path]
    assert left is not None
    assert 30 < left <= 35.5


async def test_silent_stream_is_left_and_read_on_from_where_it_stood(peer: Peer, start: Start) -> None:
    halting = Halting(peer, attempts=6)
    peer.on(CHAT_STREAM, halting.stream)
    service = await start(peer.port, timeout="200ms", max_retries=2)
    assert await text_of(service) == TEXT
    asked = [metadata for method, metadata, _ in peer.calls if method == CHAT_STREAM.path]
    assert [one.get("x-resume-from", "0") for one in asked] == ["0", "1", "2", "3", "4", "5"], (
        "each went on, so none is a retry"
    )
    assert len({one["x-request-id"] for one in asked}) == 1
    await eventually(lambda: halting.stopped == 5)
    assert service.protection.breaker.failures == 0, "it was answered"


async def test_stream_that_never_says_a_word_times_out_after_all_attempts(peer: Peer, start: Start) -> None:
    async def silent(*_: Any) -> AsyncIterator[ai.ChatStreamChunk]:
        await asyncio.Event().wait()
        yield ai.ChatStreamChunk()

    peer.on(CHAT_STREAM, silent)
    service = await start(peer.port, timeout="200ms", max_retries=3, circuit_max_fails=3)
    with pytest.raises(AIProxyError) as error:
        await text_of(service)
    assert (error.value.kind, error.value.http_status, error.value.message) == (TIMEOUT, 504, "AI服务响应超时")
    assert "said nothing for 0.2 s" in error.value.english
    assert peer.count(CHAT_STREAM) == 3
    assert service.protection.breaker.state is State.OPEN


async def test_reader_that_takes_its_time_is_no_silence(peer: Peer, start: Start) -> None:
    peer.on(CHAT_STREAM, whole)
    service = await start(peer.port, timeout="100ms")
    async with aclosing(service.chat_stream(ASKED, ME)) as chunks:
        async for _ in chunks:
            await asyncio.sleep(0.3)  # not to wait for something: this is the reader's own time
    assert peer.count(CHAT_STREAM) == 1
