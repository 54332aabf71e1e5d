"""The order of what is found, what its score says, and what happens when a model is away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from qingyu_ai.bus.errors import Fault
from qingyu_ai.settings import Embedding, Rag, Rerank
from services.llm.faults import UpstreamFault
from services.llm.meters import Meters
from services.rag.database import Database
from services.rag.embedding import EmbeddingMisfit
from services.rag.finding import NOT_RERANKED, WORDS_ONLY, Found, Query
from services.rag.searching import Scope
from services.rag.stored import Document
from services.rag.terms import names_of
from services.rag.wiring import Models, Wired, wire
from tests.rag.texts import at, soon
from tests.upstream.process import Upstream
from tests.upstream.replies import error

CHAPTERS = {
    "一": "雨是后半夜停的。沈砚推开渡口的木门，摸了摸怀里那盏青铜小灯。",
    "二": "老艄公蹲在船头补网，说灯灭之前不许过河。河上有雾。",
    "三": "对岸的钟声响了第一下。灯还亮着。雨没有再下。",
}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def settings(upstream: Upstream, **more: Any) -> Rag:
    """Vectors and ranking from the scripted server."""
    common: dict[str, Any] = {"base_url": upstream.base_url, "attempts": 1}
    embedding = Embedding(model="bge", dimension=8, ask_dimension=True, **common)
    return Rag(**{"embedding": embedding, "rerank": Rerank(model="reranker", **common), **more})


async def stored(database: Database, own: Rag, metadata: dict[str, str] | None = None) -> Wired:
    """A service with the chapters of one user."""
    wired = wire(database, Models(own, Meters(CollectorRegistry())), own)
    for number, (name, text) in enumerate(CHAPTERS.items()):
        await index(wired, own, name, text, number + 1, metadata)
    return wired


async def index(
    wired: Wired, own: Rag, name: str, text: str, order: int, metadata: dict[str, str] | None = None
) -> None:
    from qingyu_ai.bus.handler import Call
    from qingyu_ai.contract import rag_pb2 as rag

    call = Call("c", "r", "u", "p", (), soon(), "", submitted=at(order))
    request = rag.IndexRequest(document_id=name, content=text, user_id="u", metadata=metadata or {})
    assert (await wired.service.index(call, request)).success


async def find(wired: Wired, text: str, **more: Any) -> Found:
    return await wired.service.finder.find("u", Query(text, Scope(), **more), soon())


def documents(found: Found) -> list[str]:
    return [piece.document_id for piece, _ in found.pieces]


def scores(found: Found) -> Sequence[float]:
    return [score for _, score in found.pieces]


async def test_score_says_how_much_of_the_query_a_piece_holds_in_every_kind_of_search(database: Database) -> None:
    wired = await stored(database, Rag())
    for more in ({}, {"hybrid": True}, {"rerank": True}, {"hybrid": True, "rerank": True}):
        found = await find(wired, CHAPTERS["一"], **more)
        assert documents(found)[0] == "一"
        assert found.pieces[0][1] == pytest.approx(1.0)
        assert list(scores(found)) == sorted(scores(found), reverse=True)
        only = await find(wired, CHAPTERS["一"], min_score=0.9, **more)
        assert documents(only) == ["一"]


async def test_vectors_of_a_model_are_compared_with_what_texts_have_in_common_anyway(
    database: Database, upstream: Upstream
) -> None:
    wired = await stored(database, settings(upstream))
    found = await find(wired, CHAPTERS["二"])
    assert documents(found)[0] == "二"
    assert found.pieces[0][1] == pytest.approx(1.0)
    unrelated = await find(wired, "zzz", min_score=0.001)
    cosines = [score for _, score in unrelated.pieces]
    assert all(0 < score < 1 for score in cosines)


async def test_while_the_embedding_server_is_away_words_still_find_and_the_caller_is_told(
    database: Database, upstream: Upstream
) -> None:
    wired = await stored(database, settings(upstream))
    upstream.script("bge", error(503, "busy"))
    found = await find(wired, "老艄公补网", hybrid=True)
    assert documents(found)[0] == "二"
    assert found.notes == [WORDS_ONLY]
    with pytest.raises(UpstreamFault) as fault:
        await find(wired, "老艄公补网")
    assert fault.value.retry_seconds is not None


async def test_server_whose_vectors_have_another_length_is_told_to_the_operator(
    database: Database, upstream: Upstream
) -> None:
    own = settings(upstream)
    assert own.embedding is not None
    wrong = own.model_copy(
        update={"embedding": own.embedding.model_copy(update={"ask_dimension": False, "dimension": 9})}
    )
    with pytest.raises(EmbeddingMisfit) as fault:
        await stored(database, wrong)
    assert "9" not in fault.value.message


async def test_reranking_model_orders_anew_and_is_not_needed(database: Database, upstream: Upstream) -> None:
    wired = await stored(database, settings(upstream))
    query = "钟声响了"
    assert documents(await find(wired, query, rerank=True))[0] == "三"
    upstream.script("reranker", error(500, "broken"))
    found = await find(wired, query, rerank=True)
    assert found.notes == [NOT_RERANKED]
    assert len(found.pieces) == 3


async def test_names_that_documents_bring_are_words_of_their_project(database: Database) -> None:
    own = Rag()
    metadata = {"characters": "沈砚、老艄公", "places": '["青铜渡"]'}
    assert names_of(metadata) == ["沈砚", "老艄公", "青铜渡"]
    wired = await stored(database, own, metadata)
    standing = await wired.store.standing("u", "p", soon())
    assert set(standing.names) == {"沈砚", "老艄公", "青铜渡"}
    assert (await wired.store.standing("u", "other", soon())).names == ()
    assert set((await wired.store.standing("u", "", soon())).names) == set(standing.names)
    found = await find(wired, "老艄公说了什么", hybrid=True)
    assert "老艄公" in found.weights
    for order, name in enumerate(CHAPTERS, 10):
        await wired.store.delete("u", name, at(order), soon())
    assert (await wired.store.standing("u", "p", soon())).names == ()


async def test_user_without_documents_finds_nothing_and_no_model_is_asked(
    database: Database, upstream: Upstream
) -> None:
    wired = wire(database, Models(settings(upstream), Meters(CollectorRegistry())), settings(upstream))
    assert not (await find(wired, "灯")).pieces
    assert not upstream.seen()


async def test_document_beyond_a_limit_is_refused_by_its_name(database: Database) -> None:
    own = Rag(document_characters=10)
    wired = wire(database, Models(own, Meters(CollectorRegistry())), own)
    with pytest.raises(Fault, match="the limit is 10"):
        await index(wired, own, "d", "字" * 11, 1)
    assert Document("d").names == ()


async def lamps(database: Database) -> Wired:
    """A library of thirty documents that all hold the word, of which ten hold more of the query."""
    own = Rag(candidates=20)
    wired = wire(database, Models(own, Meters(CollectorRegistry())), own)
    for n in range(30):
        await index(wired, own, f"d{n:02}", "青铜灯" + ("照着渡口。" if n < 10 else "灭了。"), n + 1)
    await index(wired, own, "other", "此处无物。", 40)
    return wired


async def test_total_counts_what_there_is_also_beyond_what_is_ranked(database: Database) -> None:
    wired = await lamps(database)
    found = await find(wired, "青铜灯", hybrid=True)
    assert (len(found.pieces), found.total) == (20, 30)
    by_meaning = await find(wired, "青铜灯")
    assert (len(by_meaning.pieces), by_meaning.total) == (20, 31)  # every piece is nearer or farther
    assert (await find(wired, "没有", hybrid=True)).total == len((await find(wired, "没有", hybrid=True)).pieces)


async def test_total_counts_only_what_reaches_the_least_score(database: Database) -> None:
    wired = await lamps(database)
    found = await find(wired, "青铜灯照着渡口", hybrid=True, min_score=0.9)
    assert (len(found.pieces), found.total) == (10, 10)
    assert {name[:2] for name in documents(found)} == {"d0"}
    every = await find(wired, "青铜灯照着渡口", hybrid=True, min_score=0.01)
    assert (len(every.pieces), every.total) == (20, 30)
    assert (await find(wired, "青铜灯照着渡口", hybrid=True, min_score=1.0)).total == 10


async def test_who_wants_more_than_are_ranked_by_default_gets_them(database: Database) -> None:
    wired = await lamps(database)
    for hybrid in (True, False):
        assert len((await find(wired, "青铜灯", hybrid=hybrid, at_most=25)).pieces) == 25
    assert len((await find(wired, "青铜灯", hybrid=True, at_most=1000)).pieces) == 30
