"""Documents come, are replaced and go, in the order in which they were submitted."""

from __future__ import annotations

import asyncio
import itertools
import random

import psycopg
import pytest

from qingyu_ai.bus.errors import Code, Expired, Fault, Invalid
from qingyu_ai.settings import Rag
from services.rag.searching import Reader, Scope
from services.rag.store import Removed, Store, Stored
from services.rag.stored import Document, Piece, hash_of
from tests.rag.conftest import Address
from tests.rag.texts import MODEL, at, pieces, put, soon, texts, vector

FIRST, SECOND = "灯灭了。沈砚没有动。", "灯又亮了。雨停了。他抬起头。"


async def test_document_is_stored_whole_and_replaced_whole(store: Store, reader: Reader) -> None:
    assert await put(store, "u", "d", FIRST, at(1)) == Stored(2)
    assert "".join(await texts(reader, "u")) == FIRST
    assert await put(store, "u", "d", SECOND, at(2)) == Stored(3)
    assert "".join(await texts(reader, "u")) == SECOND


async def test_nothing_of_a_replaced_version_is_left_in_any_table(store: Store, address: Address) -> None:
    for n in range(1, 6):
        await put(store, "u", "d", FIRST if n % 2 else SECOND, at(n))
    expected = pieces(FIRST)
    with psycopg.connect(address.owner) as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM rag.{table}").fetchone()
            for table in ("documents", "pieces", "postings", "vectors", "submissions")
        }
    distinct = sum(len(set(piece.terms)) for piece in expected)
    assert counts == {"documents": (1,), "pieces": (2,), "postings": (distinct,), "vectors": (2,), "submissions": (1,)}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_newest_submission_wins_whatever_the_order_of_execution(
    store: Store, reader: Reader, order: tuple[int, ...]
) -> None:
    """Two versions, a deletion, and the last version, in every order."""
    for step in order:
        match step:
            case 0 | 1 | 3:
                await put(store, "u", "d", f"第{step}版。", at(step))
            case _:
                await store.delete("u", "d", at(step), soon())
    assert await texts(reader, "u") == ["第3版。"]


async def test_older_version_that_runs_late_does_not_bring_a_deleted_document_back(
    store: Store, reader: Reader
) -> None:
    await put(store, "u", "d", FIRST, at(1))
    assert await store.delete("u", "d", at(3), soon()) == Removed(found=True)
    assert await put(store, "u", "d", SECOND, at(2)) == Stored(3, superseded=True)
    assert await texts(reader, "u") == []


async def test_deletion_that_nothing_was_there_for_still_stops_an_older_version(store: Store, reader: Reader) -> None:
    assert await store.delete("u", "d", at(3), soon()) == Removed(found=False)
    await put(store, "u", "d", SECOND, at(2))
    assert await texts(reader, "u") == []


async def test_queue_that_was_made_anew_is_younger_than_every_job_of_the_one_before(
    store: Store, reader: Reader
) -> None:
    await put(store, "u", "d", FIRST, at(900, queue=1))
    assert await put(store, "u", "d", SECOND, at(1, queue=2)) == Stored(3)
    assert await put(store, "u", "d", FIRST, at(901, queue=1)) == Stored(2, superseded=True)
    assert "".join(await texts(reader, "u")) == SECOND


async def test_same_job_twice_has_one_effect_and_one_answer(store: Store, reader: Reader, address: Address) -> None:
    assert [await put(store, "u", "d", FIRST, at(1)) for _ in range(3)] == [Stored(2)] * 3
    with psycopg.connect(address.owner) as connection:
        assert connection.execute("SELECT count(*), max(document) FROM rag.documents").fetchone() == (1, 1)
    assert [await store.delete("u", "d", at(2), soon()) for _ in range(3)] == [Removed(found=True)] * 3
    assert [await store.delete("u", "d", at(3), soon()) for _ in range(2)] == [Removed(found=False)] * 2


async def test_versions_of_one_document_at_once_leave_exactly_the_newest(store: Store, reader: Reader) -> None:
    orders = [*range(1, 25)] * 2
    random.Random(3).shuffle(orders)
    await asyncio.gather(*(put(store, "u", "d", f"第{n}版。" * (n % 3 + 1), at(n)) for n in orders))
    assert "".join(await texts(reader, "u")) == "第24版。" * 1


async def test_documents_of_one_user_at_once_do_not_disturb_each_other(store: Store, reader: Reader) -> None:
    await asyncio.gather(*(put(store, "u", f"d{n:02}", f"同一句话。第{n:02}章。", at(n)) for n in range(30)))
    assert (await texts(reader, "u"))[1::2] == [f"第{n:02}章。" for n in range(30)]


async def test_tombstones_are_forgotten_when_no_older_job_can_come_and_living_documents_never(
    store: Store, reader: Reader, address: Address
) -> None:
    await put(store, "u", "lives", FIRST, at(1))
    await put(store, "u", "goes", FIRST, at(2))
    await store.delete("u", "goes", at(3), soon())
    assert await store.forget_tombstones(3600, soon()) == 0
    with psycopg.connect(address.owner) as connection:
        connection.execute("UPDATE rag.submissions SET at = at - interval '2 hours'")
    assert await store.forget_tombstones(3600, soon()) == 1
    assert await put(store, "u", "lives", SECOND, at(0)) == Stored(3, superseded=True)


async def test_vectors_that_are_there_already_are_found_by_the_hash_of_their_text(store: Store) -> None:
    await put(store, "u", "d", FIRST, at(1))
    texts_ = [piece.text for piece in pieces(FIRST)]
    known = await store.known("u", MODEL, [hash_of(texts_[0]), hash_of("别的")], soon())
    assert list(known) == [hash_of(texts_[0])]
    length = sum(x * x for x in vector(texts_[0])) ** 0.5
    assert known[hash_of(texts_[0])] == pytest.approx([x / length for x in vector(texts_[0])], rel=1e-5)
    assert await store.known("v", MODEL, [hash_of(texts_[0])], soon()) == {}


@pytest.mark.parametrize(
    ("document", "text", "complaint"),
    [
        (Document("d"), "灯\0灭", ("content", "has the character U+0000 at 1, which cannot be stored")),
        (Document("d"), "灯\ud83d", ("content", "has half a character (a lone surrogate) at 1")),
        (Document("d\0"), "灯", ("document_id", "has the character U+0000 at 1, which cannot be stored")),
        (Document(""), "灯", ("document_id", "is required")),
        (Document("d" * 513), "灯", ("document_id", "has 513 characters; the limit is 512")),
        (Document("d", "p\0"), "灯", ("project_id", "has the character U+0000 at 1, which cannot be stored")),
        (Document("d", "", "\udc00"), "灯", ("content_type", "has half a character (a lone surrogate) at 0")),
        (Document("d"), "灯" * 1001, ("content", "has 1001 characters; the limit is 1000")),
        (
            Document("d", metadata={"a": "\0"}),
            "灯",
            ("metadata['a']", "has the character U+0000 at 0, which cannot be stored"),
        ),
        (Document("d", metadata={"\ud800": "a"}), "灯", ("metadata", "has half a character (a lone surrogate) at 0")),
        (Document("d", metadata={"a": "灯" * 40}), "灯", ("metadata", "has 121 bytes; the limit is 100")),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_before_anything_is_spent(
    document: Document, text: str, complaint: tuple[str, str]
) -> None:
    limits = Rag(document_characters=1000, metadata_bytes=100)
    with pytest.raises(Invalid) as refused:
        Store(None, limits).check(document, text)  # type: ignore[arg-type]  # it must not get as far as a database
    assert refused.value.violations == (complaint,)
    assert complaint[1].split()[0] not in refused.value.chinese  # there is a translation


async def test_a_piece_with_nul_is_refused_too_and_nothing_is_changed(store: Store, reader: Reader) -> None:
    await put(store, "u", "d", FIRST, at(1))
    broken = [Piece(0, 0, 1, "灯\0", ["灯"])]
    with pytest.raises(Invalid, match="U\\+0000"):
        await store.put("u", Document("d"), broken, {MODEL: [vector("灯")]}, MODEL, at(2), soon())
    assert "".join(await texts(reader, "u")) == FIRST


async def test_too_many_pieces_are_refused_with_the_limit(database: object, store: Store) -> None:
    own = Rag(document_pieces=3)
    small = Store(store._database, own)
    with pytest.raises(Invalid, match="has 4 pieces; the limit is 3"):
        await put(small, "u", "d", "一。二。三。四。", at(1))


@pytest.mark.parametrize("user", ["", "\0", "u\0"])
async def test_there_is_no_user_without_a_name(store: Store, user: str) -> None:
    with pytest.raises(Invalid) as refused:
        await put(store, user, "d", FIRST, at(1))
    assert refused.value.violations == (("user_id", "is required"),)


@pytest.mark.parametrize("wrong", [[1.0] * 31, [float("nan")] * 32, [float("inf")] * 32])
async def test_vector_that_is_none_of_the_model_is_a_defect_and_changes_nothing(
    store: Store, reader: Reader, wrong: list[float]
) -> None:
    with pytest.raises(ValueError, match="a vector"):
        await store.put("u", Document("d"), pieces("灯。"), {MODEL: [wrong]}, MODEL, at(1), soon())
    assert await texts(reader, "u") == []


async def test_large_document_is_stored_whole(store: Store, reader: Reader) -> None:
    text = "".join(f"第{n}句有些不同的字{n * 7919 % 9973}。" for n in range(2000))
    assert (await put(store, "u", "d", text, at(1))).pieces == 2000
    async with reader.view("u", Scope(), soon()) as view:
        shown = await view.show([one.key for one in await view.by_vector(MODEL, vector("句"), 3000)])
    assert "".join(one.text for one in sorted(shown, key=lambda one: one.start)) == text


async def test_deadline_that_has_passed_reaches_no_database(store: Store) -> None:
    deadline = soon()._replace(at=0.0)
    with pytest.raises(Expired):
        await store.delete("u", "d", at(1), deadline)
    assert issubclass(Expired, Fault)
    assert Expired().code is Code.DEADLINE_EXCEEDED
