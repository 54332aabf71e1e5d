"""Retrieval as processes: workers and databases that are killed while documents are stored, and a tool that searches."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest

from bench.retrieval import corpus
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.contract.stubs import rag_pb2_grpc, tool_pb2_grpc
from qingyu_ai.events import BEGINNING, Event, subscribe
from qingyu_ai.settings import Rag
from services.rag.service import taken_apart
from tests.e2e.callers import FAST, Failure, new_id
from tests.postgres import PostgresProcess
from tests.running import System, Worker
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

NOVEL = corpus.documents(Path(__file__).parents[2] / "examples" / "novel" / "chendengdu.txt")
PIECES = {one.number: [piece.text for piece in taken_apart(one.text, (), Rag())] for one in NOVEL}

COPIES = 20
"""Of the novel in one batch: seven chapters alone are stored before anybody could be killed."""

SECONDS = 50

AT_ONCE = 16
"""Retries that are on their way together."""


@pytest.fixture
def database() -> Iterator[PostgresProcess]:
    process = PostgresProcess()
    process.start()
    yield process
    process.close()


def retrieval(database: PostgresProcess) -> Worker:
    return Worker("services.rag", "rag", database.settings)


def chapter(copy: int, number: int, user: str = "u") -> rag.IndexRequest:
    return rag.IndexRequest(
        document_id=f"{copy}/{number}",
        content=NOVEL[number - 1].text,
        content_type="chapter",
        user_id=user,
        project_id=f"copy {copy}",
        metadata={"chapter": str(number)},
    )


def library() -> list[rag.IndexRequest]:
    return [chapter(copy, one.number) for copy in range(COPIES) for one in NOVEL]


def stored(database: PostgresProcess) -> dict[str, list[str]]:
    """By document: the texts of its pieces, in order. Rows that belong to no document, or lack their vector, fail the test."""
    found: dict[str, list[str]] = defaultdict(list)
    with psycopg.connect(database.dsn("postgres")) as connection:
        rows = connection.execute(
            "SELECT d.document_id, d.pieces, p.content, v.embedding IS NOT NULL FROM rag.pieces p "
            "LEFT JOIN rag.documents d ON d.user_id = p.user_id AND d.document = p.document "
            "LEFT JOIN rag.vectors v ON v.user_id = p.user_id AND v.document = p.document AND v.piece = p.piece "
            "ORDER BY p.document, p.piece"
        ).fetchall()
    said: dict[str, int] = {}
    for document_id, pieces, content, embedded in rows:
        assert document_id is not None
        assert embedded
        found[document_id].append(content)
        said[document_id] = pieces
    assert said == {name: len(texts) for name, texts in found.items()}
    return found


def versions(database: PostgresProcess) -> dict[str, int]:
    """By document: the number of its version."""
    with psycopg.connect(database.dsn("postgres")) as connection:
        return dict(connection.execute("SELECT document_id, document FROM rag.documents").fetchall())


def count(database: PostgresProcess) -> int:
    with psycopg.connect(database.dsn("postgres")) as connection:
        row = connection.execute("SELECT count(*) FROM rag.documents").fetchone()
    return int(row[0]) if row else 0


def submissions(database: PostgresProcess) -> dict[str, tuple[int, int]]:
    """By document: the submission that stays."""
    with psycopg.connect(database.dsn("postgres")) as connection:
        rows = connection.execute("SELECT document_id, queue, sequence FROM rag.submissions").fetchall()
    return {document_id: (queue, sequence) for document_id, queue, sequence in rows}


def untold(database: PostgresProcess) -> int:
    with psycopg.connect(database.dsn("postgres")) as connection:
        row = connection.execute("SELECT count(*) FROM rag.untold").fetchone()
    return int(row[0]) if row else -1


async def read_told(nats: str) -> list[Event]:
    async with subscribe(nats, since=BEGINNING, event="document_indexed", follow=False) as events:
        return [event async for event in events]


def told(nats: str) -> dict[str, tuple[int, int]]:
    """By document: the newest submission that other services were told of. No event is there twice."""
    found: dict[str, tuple[int, int]] = {}
    events = asyncio.run(read_told(nats))
    assert len({event.id for event in events}) == len(events)
    for event in events:
        assert isinstance(event.data, v1.DocumentIndexed)
        assert event.data.submitted is not None
        order = (event.data.submitted.queue, event.data.submitted.sequence)
        found[event.data.document_id] = max(order, found.get(event.data.document_id, (0, 0)))
    return found


def whole(requests: list[rag.IndexRequest]) -> dict[str, list[str]]:
    """What must be stored of them."""
    return {one.document_id: PIECES[int(one.metadata["chapter"])] for one in requests}


def under(request_id: str) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", request_id),)


@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside another"])
def test_batch_whose_worker_is_killed_stores_every_document_whole_and_counts_exactly(
    database: PostgresProcess, beside: int
) -> None:
    """Alone it is started again, as `up` does, and is waited for; beside another it stays dead. The same batch again finds all
    stored, and stores nothing again."""
    requests, request_id = library(), under(new_id())
    with (
        System(*[retrieval(database)] * (1 + beside), settings=FAST) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        stub = rag_pb2_grpc.RAGServiceStub(channel)
        batch = stub.BatchIndex.future(iter(requests), timeout=SECONDS, metadata=request_id)
        eventually_sync(lambda: count(database) >= 20, timeout=20)
        dying = system.workers[0]
        dying.kill()
        assert not batch.done()
        assert count(database) < len(requests)
        if not beside:
            dying.start()
        answer = batch.result()
        counts = (answer.total, answer.success_count, answer.failed_count)
        assert counts == (len(requests), len(requests), 0), answer.failed_ids
        assert stored(database) == whole(requests)
        first = versions(database)
        system.wait_ready()
        again = stub.BatchIndex(iter(requests), timeout=SECONDS, metadata=request_id)
        assert (again.total, again.success_count, again.failed_count) == (len(requests), len(requests), 0)
        assert stored(database) == whole(requests)
        assert versions(database) == first
        found = stub.Search(rag.SearchRequest(query="灯油铺", user_id="u", top_k=COPIES * 3), timeout=SECONDS)
        assert len({one.document_id for one in found.results}) >= COPIES
        eventually_sync(lambda: untold(database) == 0, timeout=30)
        assert told(system.nats.url) == submissions(database)


def refusal(error: BaseException) -> Fault:
    fault = Failure.of(error).fault
    assert fault is not None
    return fault


def test_database_that_is_killed_makes_calls_unavailable_and_is_used_again_without_a_new_worker(
    database: PostgresProcess,
) -> None:
    requests = library()
    with (
        System(retrieval(database), settings=FAST) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        [worker] = system.workers
        stub, pid = rag_pb2_grpc.RAGServiceStub(channel), worker.pid
        [bridge] = system.bridges
        assert bridge.health().details["store"].startswith("PostgreSQL 1")
        ids = {one.document_id: new_id() for one in requests}

        def index(one: rag.IndexRequest) -> rag.IndexResponse:
            return stub.IndexDocument(one, timeout=SECONDS, metadata=under(ids[one.document_id]))

        calls = {
            one.document_id: stub.IndexDocument.future(one, timeout=SECONDS, metadata=under(ids[one.document_id]))
            for one in requests
        }
        eventually_sync(lambda: count(database) >= 20, timeout=20)
        database.crash()
        failed = {name: refusal(error) for name, call in calls.items() if (error := call.exception()) is not None}
        assert failed, "all were stored before the database died"
        assert {(fault.code, fault.reason) for fault in failed.values()} == {(Code.UNAVAILABLE, "STORE_UNAVAILABLE")}
        assert all(fault.retry_seconds for fault in failed.values())
        with pytest.raises(grpc.RpcError) as refused:
            stub.Search(rag.SearchRequest(query="灯油铺", user_id="u"), timeout=SECONDS)
        fault = refusal(refused.value)
        assert (fault.code, fault.reason, fault.retry_seconds) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE", 1.0)
        eventually_sync(lambda: bridge.health().details["store"] == "PostgreSQL: no connection within 5 s", timeout=20)
        assert bridge.health().status == "healthy"  # the worker answers: everything that needs no documents goes on

        database.start()
        eventually_sync(lambda: bridge.health().details["store"].startswith("PostgreSQL 1"), timeout=20)
        confirmed = {name for name in calls if name not in failed}
        there = stored(database)
        assert confirmed <= set(there)
        assert all(there[name] == PIECES[int(name.partition("/")[2])] for name in there)
        # Again under the same request ids, as their caller is told to.
        with ThreadPoolExecutor(AT_ONCE) as threads:
            again = list(threads.map(index, (one for one in requests if one.document_id in failed)))
        assert all(one.chunks_count == len(PIECES[int(one.document_id.partition("/")[2])]) for one in again)
        assert stored(database) == whole(requests)
        eventually_sync(lambda: untold(database) == 0, timeout=30)
        assert told(system.nats.url) == submissions(database)
        assert worker.pid == pid
        assert not worker.crashed


def test_search_knowledge_finds_what_its_caller_may_find_and_nothing_else(database: PostgresProcess) -> None:
    tools = Worker("services.tool", "tool")
    with (
        System(retrieval(database), tools, settings=FAST) as system,
        grpc.insecure_channel(system.target) as channel,
    ):
        documents = rag_pb2_grpc.RAGServiceStub(channel)
        toolbox = tool_pb2_grpc.ToolServiceStub(channel)
        for copy, user in enumerate(("u", "u", "other")):
            for one in NOVEL:
                assert documents.IndexDocument(chapter(copy, one.number, user), timeout=SECONDS).success

        def found(user: str, project: str = "", **parameters: object) -> list[dict[str, object]]:
            request = tool.ToolRequest(
                tool_name="search_knowledge",
                parameters=json.dumps({"query": "闻渡在灯油铺拿什么换了鲸脂", "top_k": 20, **parameters}),
                user_id=user,
                metadata=common.Metadata(user_id=user, project_id=project, request_id=new_id()),
            )
            answer = toolbox.CallTool(request, timeout=SECONDS)
            assert answer.success, answer.error
            passages: list[dict[str, object]] = json.loads(answer.result)["passages"]
            return passages

        best = found("u", "copy 1")[0]
        assert best["document_id"] == "1/5"
        assert "以左耳听觉抵账" in str(best["content"])
        assert 0 < float(str(best["score"])) <= 1

        def copies(user: str, project: str = "") -> set[str]:
            return {str(one["document_id"]).partition("/")[0] for one in found(user, project)}

        assert copies("u") == {"0", "1"}
        assert copies("u", "copy 1") == {"1"}
        assert copies("other") == {"2"}
        assert copies("u", "copy 2") == set()  # the other's project
        assert copies("nobody") == set()
        with pytest.raises(grpc.RpcError) as refused:
            found("u", user_id="other")
        assert refusal(refused.value).violations[0][0] == "parameters.user_id"
