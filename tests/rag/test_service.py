"""The three rows through a bridge, with two workers on one database; what a worker does when it starts, and when it is killed."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest

from qingyu_ai import routes
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Invalid
from qingyu_ai.bus.handler import Call
from qingyu_ai.cli.programs import as_environment
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.events import documents
from qingyu_ai.events.documents import Note
from qingyu_ai.settings import Rag, Settings, SettingsError
from services.rag import opening
from services.rag.database import Database, addresses
from services.rag.finding import ModelGone
from services.rag.opening import open_database
from services.rag.reembedding import Reembedding
from services.rag.searching import Reader
from services.rag.service import RagService
from services.rag.store import Store
from tests.bridge.conftest import Bridge, open_bridge
from tests.bus.conftest import FAST, clean
from tests.nats_cluster import AnyNats
from tests.postgres import PostgresProcess
from tests.rag.conftest import Address
from tests.rag.killed_writer import version
from tests.rag.parts import Counts, service
from tests.rag.texts import MODEL, OTHER, at, texts
from tests.waiting import eventually

STORY = "灯灭了。沈砚没有动。雨下了一夜。"


def call(user: str = "u", sequence: int = 1) -> Call:
    return Call("c", "r", user, "", (), Deadline.after(20), "", submitted=at(sequence))


def chapter(content: str) -> rag.IndexRequest:
    return rag.IndexRequest(
        document_id="d", user_id="u", project_id="p", content_type="chapter", metadata={"v": "1"}, content=content
    )


@dataclass
class Served:
    """A bridge and its retrieval workers."""

    bridge: Bridge
    workers: list[asyncio.subprocess.Process]


@pytest.fixture
async def system(nats_process: AnyNats, address: Address) -> AsyncIterator[Served]:
    """A bridge, and two retrieval workers as processes of their own on the same database."""
    nats = {"url": ",".join(nats_process.servers)}
    settings = Settings.model_validate({"bus": FAST, "bridge": {"port": 0}, "nats": nats})
    await clean(nats_process, FAST)
    env = {name: value for name, value in os.environ.items() if not name.startswith("QINGYU_")}
    rag_ = {"dsn": address.worker, "metrics_port": 0, "piece_characters": 50, "overlap_characters": 0}
    env |= as_environment({"bus": FAST.model_dump(exclude_defaults=True), "rag": rag_}) | {"NATS_URL": nats["url"]}
    workers = [await asyncio.create_subprocess_exec(sys.executable, "-m", "services.rag", env=env) for _ in "12"]
    try:
        async with open_bridge(settings) as opened:
            await eventually(lambda: len(list(opened.presence.workers())) == 2, timeout=30)
            yield Served(opened, workers)
    finally:
        running = [worker for worker in workers if worker.returncode is None]
        for worker in running:
            worker.terminate()
        statuses = [await worker.wait() for worker in running]
    assert set(statuses) == {0}


@pytest.fixture
def bridge(system: Served) -> Bridge:
    return system.bridge


async def test_documents_are_whole_when_a_worker_is_killed_while_it_stores_them(system: Served) -> None:
    index, search = system.bridge.unary(routes.INDEX_DOCUMENT), system.bridge.unary(routes.SEARCH)
    text = "".join(f"第{n}句话各不相同。" for n in range(50))
    requests = [rag.IndexRequest(document_id=f"d{n:02}", user_id="u", content=text) for n in range(40)]
    calls = [asyncio.ensure_future(index(request, timeout=40)) for request in requests]
    await eventually(lambda: sum(call.done() for call in calls) >= 5)
    system.workers[0].kill()
    await system.workers[0].wait()
    answers = await asyncio.gather(*calls)
    assert all(answer.success for answer in answers)
    assert len({answer.chunks_count for answer in answers}) == 1
    asked = rag.SearchRequest(
        query="第7句话各不相同", user_id="u", top_k=100, options=rag.SearchOptions(enable_hybrid=True)
    )
    found = await search(asked, timeout=10)
    best = {one.document_id for one in found.results if "第7句话各不相同。" in one.content}
    assert best == {request.document_id for request in requests}


async def test_two_workers_on_one_database_index_search_replace_and_delete(bridge: Bridge) -> None:
    index, search = bridge.unary(routes.INDEX_DOCUMENT), bridge.unary(routes.SEARCH)
    delete = bridge.unary(routes.DELETE_DOCUMENT)
    stored = await index(chapter(STORY), timeout=10)
    assert (stored.document_id, stored.success, stored.chunks_count) == ("d", True, 1)
    options = rag.SearchOptions(enable_hybrid=True, filters={"v": "1"})
    for _ in range(6):  # whichever worker answers
        found = await search(
            rag.SearchRequest(query="雨下了一夜", user_id="u", project_id="p", top_k=1, options=options), timeout=10
        )
        assert [one.content for one in found.results] == [STORY]
        assert found.total_count == 1
        assert found.results[0].highlights[0].endswith("⟦雨下了一夜⟧。")
        assert (found.results[0].content_type, found.results[0].metadata) == ("chapter", {"v": "1"})
    await index(chapter("灯亮了。"), timeout=10)
    found = await search(rag.SearchRequest(query="雨下了一夜", user_id="u", options=options), timeout=10)
    assert [one.content for one in found.results] == ["灯亮了。"]
    assert (await delete(rag.DeleteRequest(document_id="d", user_id="u"), timeout=10)).success
    again = await delete(rag.DeleteRequest(document_id="d", user_id="u"), timeout=10)
    assert (again.success, "没有文档" in again.message) == (False, True)
    assert not (await search(rag.SearchRequest(query="灯", user_id="u"), timeout=10)).results


async def test_batch_of_documents_is_stored_but_for_the_bad_one(bridge: Bridge) -> None:
    requests = [rag.IndexRequest(document_id=f"d{n}", user_id="u", content=f"第{n}章。灯。") for n in range(12)]
    requests[5].content = "灯\0灭"
    batch = bridge.channel.stream_unary(
        routes.BATCH_INDEX.path, rag.IndexRequest.SerializeToString, rag.BatchIndexResponse.FromString
    )
    answer = await batch(iter(requests), timeout=20)
    assert (answer.total, answer.success_count, list(answer.failed_ids)) == (12, 11, ["d5"])
    search = bridge.unary(routes.SEARCH)
    found = await search(rag.SearchRequest(query="灯", user_id="u", top_k=100), timeout=10)
    assert {one.document_id for one in found.results} == {f"d{n}" for n in range(12)} - {"d5"}


async def test_text_that_cannot_be_stored_is_an_invalid_argument_that_names_the_field(bridge: Bridge) -> None:
    request = rag.IndexRequest(document_id="d", user_id="u", content="灯\0灭")
    refusal = await bridge.refused(routes.INDEX_DOCUMENT, request)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fault.violations == (("content", "has the character U+0000 at 1, which cannot be stored"),)
    assert "第 1 个字符处有 U+0000" in refusal.fault.chinese


@pytest.fixture
def served(database: Database) -> RagService:
    return service(database)


async def test_results_below_the_least_score_are_left_out(served: RagService) -> None:
    await served.index(call(), rag.IndexRequest(document_id="d", content="灯灭了灯灭了灯灭了。灯灭。"))
    plain = await served.search(call(), rag.SearchRequest(query="灯灭了", top_k=5))
    assert [one.content for one in plain.results] == ["灯灭了灯灭了灯灭了。", "灯灭。"]
    least = rag.SearchOptions(min_score=plain.results[0].score - 0.001)
    strict = await served.search(call(), rag.SearchRequest(query="灯灭了", options=least))
    assert (len(strict.results), strict.total_count) == (1, 1)


async def test_chapter_that_is_saved_again_is_embedded_only_where_it_changed(database: Database) -> None:
    counts = Counts()
    served = service(database, counts)
    await served.index(call(), rag.IndexRequest(document_id="d", content=STORY))
    await served.index(call(sequence=2), rag.IndexRequest(document_id="d", content=STORY.replace("雨", "雪")))
    assert counts.asked == ["灯灭了。", "沈砚没有动。", "雨下了一夜。", "雪下了一夜。"]


async def test_while_the_model_changes_search_uses_the_old_one_and_then_the_new_one(database: Database) -> None:
    await service(database, Counts(MODEL)).index(call(), rag.IndexRequest(document_id="d", content=STORY))
    old, new = Counts(MODEL), Counts(OTHER)
    served = service(database, new, old)
    await served.index(call(sequence=2), rag.IndexRequest(document_id="e", content="云来了。"))
    found = await served.search(call(), rag.SearchRequest(query="雨", top_k=10))
    assert (len(found.results), old.asked[-1]) == (4, "雨")
    await Reembedding(database, Store(database, Rag()), new).round()
    found = await served.search(call(), rag.SearchRequest(query="雨", top_k=10))
    assert (len(found.results), new.asked[-1]) == (4, "雨")


async def test_without_the_old_model_words_still_find_and_meaning_says_when_to_come_back(database: Database) -> None:
    await service(database, Counts(MODEL)).index(call(), rag.IndexRequest(document_id="d", content=STORY))
    served = service(database, Counts(OTHER))
    with pytest.raises(ModelGone):
        await served.search(call(), rag.SearchRequest(query="雨下了"))
    hybrid = rag.SearchOptions(enable_hybrid=True)
    found = await served.search(call(), rag.SearchRequest(query="雨下了", options=hybrid))
    assert [one.content for one in found.results] == ["雨下了一夜。"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (rag.SearchRequest(query="灯\0"), "query"),
        (rag.SearchRequest(query="灯" * 10_001), "query"),
        (rag.SearchRequest(query="灯", project_id="\0"), "project_id"),
        (rag.SearchRequest(query="灯", content_types=["a", "\0"]), "content_types[1]"),
        (rag.SearchRequest(query="灯", options=rag.SearchOptions(filters={"a": "\0"})), "options.filters['a']"),
    ],
)
async def test_search_that_can_find_nothing_is_refused_by_field(
    served: RagService, request_: rag.SearchRequest, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await served.search(call(), request_)
    assert refused.value.violations[0][0] == field


async def test_empty_document_and_query_of_ten_thousand_characters_are_answered(served: RagService) -> None:
    assert (await served.index(call(), rag.IndexRequest(document_id="d", content=""))).chunks_count == 0
    await served.index(call(sequence=2), rag.IndexRequest(document_id="e", content=STORY))
    hybrid = rag.SearchOptions(enable_hybrid=True)
    found = await served.search(call(), rag.SearchRequest(query="雨下了一夜" * 2000, options=hybrid))
    assert found.results[0].content == "雨下了一夜。"


async def test_writer_that_is_killed_at_any_moment_leaves_a_whole_version(address: Address, reader: Reader) -> None:
    """kill -9 between, before and in the middle of transactions; whatever was confirmed is there, or something newer. So is the
    event of each version that was stored, and of no other."""
    confirmed, first = 0, 1
    before: list[int] = []
    for _ in range(6):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.rag.killed_writer", address.worker, str(first)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        for _ in range(random.randint(1, 4)):
            confirmed = int(await child.stdout.readline())
        child.kill()
        rest = (await child.communicate())[0].split()
        confirmed = int(rest[-1]) if rest else confirmed
        await eventually(lambda: _writers(address) == 0)
        text = "".join(await texts(reader, "u"))
        assert text in (version(confirmed), version(confirmed + 1))
        with psycopg.connect(address.owner) as connection:
            noted = connection.execute("SELECT event, data FROM rag.untold ORDER BY number").fetchall()
        orders = [documents.told(Note(*row)).message.submitted.sequence for row in noted]
        last = confirmed if text == version(confirmed) else confirmed + 1
        assert orders[-1] == last
        assert orders == [*before, *range(first, last + 1)]
        before = orders
        first = confirmed + 2


def _writers(address: Address) -> int:
    """Transactions that the database has not noticed the end of."""
    with psycopg.connect(address.owner) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL "
            "AND pid <> pg_backend_pid()"
        ).fetchone()
    return int(row[0]) if row else 0


@pytest.fixture
def own_server() -> Iterator[PostgresProcess]:
    process = PostgresProcess()
    process.start()
    yield process
    process.close()


def embedded(server: PostgresProcess) -> Settings:
    """The settings of a worker beside a database that `up` has started."""
    return Settings(data_dir=server.folder.parent, rag=Rag(port=server.port))


async def test_workers_that_start_at_once_beside_a_new_database_prepare_it_and_work(
    own_server: PostgresProcess,
) -> None:
    settings, stop = embedded(own_server), asyncio.Event()
    opened = await asyncio.gather(*(open_database(settings, stop) for _ in range(3)))
    pools = [pool for pool in opened if pool is not None]
    await service(pools[0]).index(call(), rag.IndexRequest(document_id="d", content=STORY))
    assert len((await service(pools[2]).search(call(), rag.SearchRequest(query="灯"))).results) == 3
    for pool in pools:
        await pool.close()


async def test_worker_waits_for_its_database_and_stops_when_told_to_while_it_waits(
    own_server: PostgresProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tries, prepare = embedded(own_server), [0], opening._prepare

    def counted(settings: Settings) -> str:
        tries[0] += 1
        return prepare(settings)

    monkeypatch.setattr(opening, "_prepare", counted)
    own_server.stop()
    waiting = asyncio.create_task(open_database(settings, asyncio.Event()))
    await eventually(lambda: tries[0] >= 2)
    stop = asyncio.Event()
    stopping = asyncio.create_task(open_database(settings, stop))
    await eventually(lambda: tries[0] >= 5)
    stop.set()
    assert await stopping is None
    own_server.start()
    pool = await waiting
    assert pool is not None
    await pool.close()


@pytest.mark.parametrize(
    "prepare", [lambda a: a.worker.replace("@", "x@"), lambda a: a.owner], ids=["password", "owner"]
)
async def test_worker_that_could_never_work_is_told_at_once(
    address: Address, prepare: Callable[[Address], str]
) -> None:
    settings = Settings(rag=Rag.model_validate({"dsn": prepare(address)}))
    with pytest.raises(SettingsError, match="QINGYU_RAG__DSN"):
        await open_database(settings, asyncio.Event())


async def test_worker_does_not_migrate_a_database_that_a_dsn_names(empty: Address) -> None:
    settings = Settings(rag=Rag.model_validate({"dsn": empty.worker, "owner_dsn": empty.owner}))
    with pytest.raises(SettingsError, match=r"services\.rag\.migrate"):
        await open_database(settings, asyncio.Event())


def test_address_of_a_database_that_was_never_made_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="make up"):
        addresses(Settings(data_dir=tmp_path))
