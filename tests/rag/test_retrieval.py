"""Splitting, terms, vectors, ranking and scores together: questions about the sample novel find their chapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.retrieval import corpus
from bench.retrieval.corpus import READERS, Query, ReaderQuery
from bench.retrieval.engine import MODES, InMemory, Mode, Result
from bench.retrieval.evaluation import figures, is_chapter, is_passage, ranks

NOVEL = Path(__file__).parents[2] / "examples" / "novel"
CHAPTERS = 7


@pytest.fixture(scope="module")
def engine() -> InMemory:
    found = InMemory()
    found.index(corpus.documents(NOVEL / "chendengdu.txt"))
    return found


@pytest.fixture(scope="module")
def questions() -> list[Query]:
    return corpus.readers(corpus.documents(NOVEL / "chendengdu.txt"), NOVEL / "queries.tsv")


FOUND: tuple[tuple[Mode, int, int], ...] = (
    ("full text", 11, 11),
    ("vectors", 8, 12),
    ("hybrid", 11, 11),
    ("hybrid + rerank", 11, 11),
)
"""Of twelve questions: how many have their chapter first, and how many the passage that answers among five of fourteen."""


@pytest.mark.parametrize(("mode", "first", "among_five"), FOUND)
def test_questions_find_their_chapter_and_their_passage(
    engine: InMemory, questions: list[Query], mode: Mode, first: int, among_five: int
) -> None:
    found = [engine.search(one.text, mode) for one in questions]
    assert sum(rank == 1 for rank in ranks(questions, found, is_chapter)) >= first
    assert sum((rank or 99) <= 5 for rank in ranks(questions, found, is_passage)) >= among_five


@pytest.mark.parametrize("mode", MODES)
def test_scores_are_shares_that_never_rise(engine: InMemory, questions: list[Query], mode: Mode) -> None:
    for question in questions:
        scores = [one.score for one in engine.search(question.text, mode)]
        assert all(0 <= score <= 1 for score in scores)
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_question_about_nothing_in_the_novel_has_lower_scores_than_any_about_it(
    engine: InMemory, questions: list[Query], mode: Mode
) -> None:
    about_it = [engine.search(question.text, mode)[0].score for question in questions]
    besides = [one.score for one in engine.search("宇航员怎样修好空间站上的量子计算机", mode)]
    assert max(besides, default=0.0) < min(about_it)


def test_a_sentence_of_the_novel_finds_itself_with_the_full_score(engine: InMemory) -> None:
    first = engine.search("以左耳听觉抵账", "full text")[0]
    assert "以左耳听觉抵账" in first.text
    assert first.score == 1


def test_one_character_is_enough_to_find_what_holds_it(engine: InMemory) -> None:
    found = engine.search("篙", "full text")
    assert found
    assert all("篙" in one.text for one in found)


def test_figures_are_shares_of_queries() -> None:
    some = figures([1, 2, None, 6])
    assert (some.count, some.hit) == (4, {1: 0.25, 5: 0.5})
    assert some.mrr == pytest.approx((1 + 1 / 2 + 1 / 6) / 4)
    assert figures([]).mrr == 0


def test_a_wrong_chapter_with_the_phrase_is_not_the_passage() -> None:
    query = Query("谁", 3, "他在下")
    assert is_passage(query, Result(3, "掌心写了三个字：他在下", 0.5))
    assert not is_passage(query, Result(3, "院中有钟", 0.5))
    assert not is_passage(query, Result(4, "他在下", 0.5))


def test_a_novel_that_is_not_the_one_of_the_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="chapter 1 of this novel"):
        corpus.readers(corpus.documents(NOVEL / "chendengdu.txt"), READERS)


@pytest.mark.parametrize(
    ("path", "rows", "last"), [(READERS, 60, 120), (NOVEL / "queries.tsv", 12, CHAPTERS)], ids=["classic", "sample"]
)
def test_files_of_questions_have_their_shape(path: Path, rows: int, last: int) -> None:
    questions, names = corpus.reader_rows(path)
    assert len(questions) == rows == len({one.text for one in questions})
    assert all(1 <= one.number <= last for one in questions)
    assert all(1 <= len(one.evidence) <= 12 for one in questions)
    assert [one for one in questions if shared(one, names)] == []


def shared(question: ReaderQuery, names: list[str]) -> set[str]:
    """Neighbouring characters of a title that stand in its question, names of persons aside."""
    text = question.text
    for name in names:
        text = text.replace(name, "\n")
    return {pair for pair in map("".join, zip(question.title, question.title[1:], strict=False)) if pair in text}


def test_the_rule_for_questions_sees_a_word_of_the_title() -> None:
    row = ReaderQuery(1, "灯灭之前", "灯灭之后怎样", "x")
    assert shared(row, []) == {"灯灭", "灭之"}
    assert shared(row, ["灯灭之"]) == set()


def test_the_sample_novel_has_its_chapters_and_begins_as_the_tour_tells() -> None:
    novel = corpus.documents(NOVEL / "chendengdu.txt")
    assert [one.number for one in novel] == list(range(1, CHAPTERS + 1))
    assert all(600 <= len(one.text) <= 900 for one in novel)
    tour = (NOVEL.parent / "tour.py").read_text(encoding="utf-8").replace("\\\n", "")
    told = novel[0].text.replace("\n", "")
    passage = told[: told.index("撑到河心。”") + len("撑到河心。”")]
    assert passage in tour
