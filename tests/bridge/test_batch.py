"""BatchIndex: documents that fail do not fail the others, and what is away for a moment is waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench import echo_worker
from qingyu_ai import routes
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import Bridge as BridgeSettings
from tests.bridge.conftest import Bridge
from tests.waiting import eventually


async def test_batch_counts_and_names_the_documents_that_failed(bridge: Bridge) -> None:
    async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        if request.document_id == "bad":
            raise Fault(Code.FAILED_PRECONDITION, "NO", "no", "不")
        return rag.IndexResponse(document_id=request.document_id, success=request.document_id != "unsure")

    await bridge.worker("rag", index=index)
    names = ["a", "bad", "", "b", "unsure"] + [f"d{i}" for i in range(60)]
    bodies = [rag.IndexRequest(document_id=n, content="文", user_id="u").SerializeToString() for n in names]
    bodies.append(b"\xff\xff")
    call: Any = bridge.channel.stream_unary(routes.BATCH_INDEX.path, None, rag.BatchIndexResponse.FromString)
    reply = await call(iter(bodies), timeout=20)
    assert (reply.total, reply.success_count, reply.failed_count) == (66, 62, 4)
    assert sorted(reply.failed_ids) == ["#2", "#65", "bad", "unsure"]


async def test_batch_that_the_caller_leaves_stops(bridge: Bridge) -> None:
    started: list[str] = []

    async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        started.append(request.document_id)
        await asyncio.sleep(60)
        raise AssertionError

    worker = await bridge.worker("rag", index=index)

    async def documents() -> AsyncIterator[bytes]:
        for i in range(1000):
            yield rag.IndexRequest(document_id=str(i), content="文", user_id="u").SerializeToString()

    method: Any = bridge.channel.stream_unary(routes.BATCH_INDEX.path)
    call = method(documents(), timeout=60)
    await eventually(lambda: len(started) == bridge.settings.bridge.max_batch_in_flight)
    call.cancel()
    await eventually(lambda: worker.running == 0)
    assert len(started) <= bridge.settings.bridge.max_batch_in_flight * 2


def document(name: str, content: str = "文") -> bytes:
    return rag.IndexRequest(document_id=name, content=content, user_id="u").SerializeToString()


def batch(bridge: Bridge, bodies: Any) -> asyncio.Future[Any]:
    method: Any = bridge.channel.stream_unary(routes.BATCH_INDEX.path, None, rag.BatchIndexResponse.FromString)
    call: asyncio.Future[Any] = asyncio.ensure_future(method(bodies, timeout=40))
    return call


async def leaves(bridge: Bridge) -> None:
    """The only worker goes, and the bridge sees it."""
    worker, bus = bridge.workers.pop()
    await worker.drain(1)
    await bus.close()
    await eventually(lambda: not bridge.presence.has("rag"))


class Gated:
    """Documents that come when they are let in."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.open = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for n in range(self.count):
            if n == 1:
                await self.open.wait()
            yield document(f"d{n}")


async def begun(bridge: Bridge, count: int) -> tuple[asyncio.Future[Any], Gated]:
    """A batch of which the first document is indexed, by a worker that has gone."""
    indexed = asyncio.Event()

    async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        indexed.set()
        return await echo_worker.index(call, request)

    await bridge.worker("rag", index=index)
    source = Gated(count)
    call = batch(bridge, aiter(source))
    await indexed.wait()
    await leaves(bridge)
    return call, source


async def test_batch_waits_for_a_worker_that_is_away_for_a_moment(bridge: Bridge) -> None:
    call, source = await begun(bridge, 40)
    source.open.set()
    waited = bridge.settings.bridge.max_batch_in_flight
    await eventually(lambda: len(asyncio.all_tasks()) > waited)
    assert not call.done()
    await bridge.worker("rag")
    answer = await call
    assert (answer.total, answer.success_count, list(answer.failed_ids)) == (40, 40, [])


@pytest.mark.parametrize(
    "bridge_settings", [BridgeSettings(port=0, expected_workers=("rag",), batch_patience_seconds=0.5)]
)
async def test_batch_without_a_worker_for_longer_than_its_patience_names_its_documents(bridge: Bridge) -> None:
    call, source = await begun(bridge, 100)
    source.open.set()
    answer = await call
    assert (answer.total, answer.success_count) == (100, 1)
    assert sorted(answer.failed_ids) == sorted(f"d{n}" for n in range(1, 100))


async def test_document_whose_store_is_away_for_a_moment_is_tried_again_and_one_whose_is_full_is_not(
    bridge: Bridge,
) -> None:
    runs: Counter[str] = Counter()

    async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        runs[request.document_id] += 1
        if request.document_id == "away" and runs["away"] < 3:
            raise Fault(Code.UNAVAILABLE, "STORE_UNAVAILABLE", "away", "不在", retry_seconds=0.1)
        if request.document_id == "gone":
            raise Fault(Code.UNAVAILABLE, "STORE_UNAVAILABLE", "away", "不在", retry_seconds=0.1)
        if request.document_id == "misfit":
            raise Fault(Code.UNAVAILABLE, "EMBEDDING_MISFIT", "no", "不", retry_seconds=60.0)
        if request.document_id == "full":
            raise Fault(Code.RESOURCE_EXHAUSTED, "STORE_FULL", "full", "满", retry_seconds=0.1)
        return rag.IndexResponse(document_id=request.document_id, success=True)

    await bridge.worker("rag", index=index)
    answer = await batch(bridge, iter([document(name) for name in ("away", "gone", "misfit", "full", "good")]))
    assert (answer.total, answer.success_count, sorted(answer.failed_ids)) == (5, 2, ["full", "gone", "misfit"])
    tries = 1 + bridge.settings.bus.retries
    assert runs == {"away": 3, "gone": tries, "misfit": 1, "full": 1, "good": 1}


async def test_document_that_comes_twice_in_a_batch_is_submitted_in_the_order_of_the_batch(bridge: Bridge) -> None:
    order: list[tuple[str, int]] = []

    async def index(call: Call, request: rag.IndexRequest) -> rag.IndexResponse:
        order.append((request.content, call.submitted.sequence))
        return rag.IndexResponse(document_id=request.document_id, success=True)

    await bridge.worker("rag", index=index)
    contents = [f"{n:03}" for n in range(60)]
    answer = await batch(bridge, iter([document("the same", content) for content in contents]))
    assert answer.success_count == 60
    assert [content for content, _ in sorted(order, key=lambda one: one[1])] == contents
