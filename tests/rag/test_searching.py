"""What is found by words and by meaning, and within which scope."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from qingyu_ai.settings import Rag
from services.rag.ranking import K1, B
from services.rag.searching import Reader, Scope
from services.rag.store import Store
from tests.rag.texts import MODEL, at, found, pieces, put, soon, terms, vector

STORY = "沈砚点亮了灯。雨下了一夜。他记得那盏灯是父亲留下的，灯芯已经很短。门外有人敲门。"
OTHER_STORY = "灯塔上的灯坏了。船在雨里等了一夜。"


@pytest.fixture
async def library(store: Store) -> None:
    """Some documents of one user."""
    await put(store, "u", "a", STORY, at(1), project="p1", kind="chapter", metadata={"volume": "1", "state": "draft"})
    await put(store, "u", "b", OTHER_STORY, at(2), project="p2", kind="chapter", metadata={"volume": "2"})
    await put(store, "u", "c", "灯的三种写法。", at(3), project="p1", kind="note", metadata={"volume": "1"})


def reference(query: str, texts: list[str]) -> dict[str, float]:
    """BM25 in the plainest way, over these pieces."""
    counted = {text: Counter(terms(text)) for text in texts}
    mean = sum(c.total() for c in counted.values()) / len(texts)
    scores = {}
    for text, count in counted.items():
        score = 0.0
        for term in set(terms(query)):
            df = sum(term in c for c in counted.values())
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            score += idf * count[term] * (K1 + 1) / (count[term] + K1 * (1 - B + B * count.total() / mean))
        if score:
            scores[text] = score
    return scores


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("query", ["那盏灯是父亲留下的", "雨下了一夜", "灯的写法", "灯塔上的灯"])
async def test_ranking_by_words_is_bm25_over_all_pieces_of_the_scope(reader: Reader, query: str) -> None:
    texts = [piece.text for story in (STORY, OTHER_STORY, "灯的三种写法。") for piece in pieces(story)]
    async with reader.view("u", Scope(), soon()) as view:
        ranked = await view.by_words(terms(query), 50)
        shown = await view.show([one.key for one in ranked.pieces])
    expected = reference(query, texts)
    assert {one.text: pytest.approx(w.score) for one, w in zip(shown, ranked.pieces, strict=True)} == expected
    assert [w.score for w in ranked.pieces] == pytest.approx(sorted(expected.values(), reverse=True))
    assert (ranked.total, ranked.statistics.pieces) == (len(expected), len(texts))


@pytest.mark.usefixtures("library")
async def test_numbers_of_the_ranking_are_those_of_the_scope(reader: Reader) -> None:
    async with reader.view("u", Scope(project_id="p1"), soon()) as view:
        ranked = await view.by_words(terms("灯的三种写法"), 50)
    assert ranked.statistics.pieces == len(pieces(STORY)) + 1
    assert ranked.statistics.df["灯的"] == 1
    assert ranked.pieces[0].times == Counter(terms("灯的三种写法"))
    assert ranked.pieces[0].terms == len(terms("灯的三种写法"))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("scope", "documents"),
    [
        (Scope(), {"a", "b", "c"}),
        (Scope(project_id="p1"), {"a", "c"}),
        (Scope(content_types=("chapter",)), {"a", "b"}),
        (Scope(content_types=("chapter", "note")), {"a", "b", "c"}),
        (Scope(filters={"volume": "1"}), {"a", "c"}),
        (Scope(filters={"volume": "1", "state": "draft"}), {"a"}),
        (Scope("p1", ("note",), {"volume": "1"}), {"c"}),
        (Scope("p2", ("note",)), set()),
        (Scope(filters={"volume": "3"}), set()),
        (Scope(filters={"nothing": ""}), set()),
    ],
)
async def test_scope_holds_for_words_and_for_meaning_alike(reader: Reader, scope: Scope, documents: set[str]) -> None:
    async with reader.view("u", scope, soon()) as view:
        worded = await view.by_words(terms("灯的"), 50)
        near = await view.by_vector(MODEL, vector("灯"), 50)
        by_words = {one.document_id for one in await view.show([one.key for one in worded.pieces])}
        by_meaning = {one.document_id for one in await view.show([one.key for one in near])}
    assert by_meaning == documents
    assert by_words <= documents


@pytest.mark.usefixtures("library")
async def test_nearest_come_first_with_their_cosine(reader: Reader) -> None:
    text = pieces(STORY)[2].text
    async with reader.view("u", Scope(), soon()) as view:
        near = await view.by_vector(MODEL, vector(text), 2)
        shown = await view.show([near[0].key])
    assert near[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert shown[0].text == text
    assert len(near) == 2
    assert near[0].similarity > near[1].similarity
    assert STORY[shown[0].start : shown[0].end] == text


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("query", ["", "　", "不存在的词语组合", "🙂"])
async def test_query_without_a_known_word_finds_nothing_by_words(reader: Reader, query: str) -> None:
    async with reader.view("u", Scope(), soon()) as view:
        assert (await view.by_words(terms(query), 50)).pieces == []


async def test_user_without_documents_finds_nothing(reader: Reader) -> None:
    assert await found(reader, "nobody", "灯") == []


async def test_rare_words_decide_and_common_ones_still_count_where_there_are_too_many(
    store: Store, reader: Reader
) -> None:
    """With room for few postings a word that is everywhere is not looked for, and ranks what the rare ones find."""
    for n in range(150):
        await put(store, "u", f"d{n}", f"宝玉走了{n:03}步。", at(n + 1))
    await put(store, "u", "rare", "黛玉葬花，宝玉走了。", at(900))
    await put(store, "u", "also", "黛玉葬花。", at(901))
    small = Reader(reader._database, Rag(candidate_postings=100))
    async with small.view("u", Scope(), soon()) as view:
        ranked = await view.by_words(terms("黛玉葬花 宝玉走了"), 10)
        shown = await view.show([one.key for one in ranked.pieces])
    times = {one.document_id: found.times for one, found in zip(shown, ranked.pieces, strict=True)}
    assert times == {"rare": Counter(terms("黛玉葬花 宝玉走了")), "also": Counter(terms("黛玉葬花"))}
    async with reader.view("u", Scope(), soon()) as view:
        assert (await view.by_words(terms("黛玉葬花 宝玉走了"), 500)).total == 152


async def test_query_of_ten_thousand_characters_is_answered(store: Store, reader: Reader) -> None:
    await put(store, "u", "d", STORY, at(1))
    query = "".join(chr(0x4E00 + n * 37 % 20_000) for n in range(9_990)) + "那盏灯是父亲留下的"
    async with reader.view("u", Scope(), soon()) as view:
        ranked = await view.by_words(terms(query), 5)
        assert "那盏灯是父亲留下的" in (await view.show([ranked.pieces[0].key]))[0].text


async def test_view_is_of_one_moment_while_documents_are_replaced(store: Store, reader: Reader) -> None:
    await put(store, "u", "d", STORY, at(1))
    async with reader.view("u", Scope(), soon()) as view:
        before = await view.by_vector(MODEL, vector("灯"), 50)
        await put(store, "u", "d", OTHER_STORY, at(2))
        await store.delete("u", "d", at(3), soon())
        again = await view.by_vector(MODEL, vector("灯"), 50)
        shown = await view.show([one.key for one in before])
    assert again == before
    assert "".join(one.text for one in sorted(shown, key=lambda one: one.start)) == STORY
    assert await found(reader, "u", "灯") == []


async def test_searches_beside_writes_see_whole_versions_only(store: Store, reader: Reader) -> None:
    versions = {n: f"第{n}版甲。第{n}版乙。第{n}版丙。" for n in range(1, 30)}
    stop = asyncio.Event()

    async def search() -> int:
        seen = 0
        while not stop.is_set():
            shown = await found(reader, "u", "版")
            text = "".join(one.text for one in sorted(shown, key=lambda one: one.start))
            assert text in ("", *versions.values())
            seen += 1
        return seen

    searching = [asyncio.create_task(search()) for _ in range(3)]
    for n, text in versions.items():
        await put(store, "u", "d", text, at(n))
    stop.set()
    assert sum(await asyncio.gather(*searching)) > 0
