"""services/rag/splitting.py: pieces cover the text, point into it, and end where a reader would pause."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.llm.graphemes import graphemes
from services.rag.splitting import LONGEST_CHARACTER, Piece, split

PARTS = (
    *'雨夜渡口灯火。！？…，、；：“”「」『』‘’"（）\n\r\u3000 \tab.?!',
    "\r\n",
    "\u0301",
    "\ufe0f",
    "\u200d",
    "👩🏽‍🚒",
    "🇨🇳",
    "각",
    "第一章 灯\n",
    "卷一\n",
    "“走。”他说。",
    "……",
)
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=6), max_size=80).map("".join)
SIZES = st.integers(1, 60).flatmap(lambda target: st.tuples(st.just(target), st.integers(0, target // 2)))


def longest(pieces: list[Piece]) -> int:
    return max(len(piece.text) for piece in pieces)


@given(TEXTS, SIZES)
@settings(max_examples=250, deadline=None)
@example("\r\n\r\n\r\n", (1, 0))
@example("👩🏽\u200d🚒\r\n", (1, 0))
@example("“" * 30 + "”" * 30, (10, 5))
@example("a" + "\u0301" * 100, (8, 4))
@example("他说了。“" + "字" * 18 + "”。后来他走了", (20, 10))
def test_pieces_cover_the_text_and_point_into_it(text: str, sizes: tuple[int, int]) -> None:
    target, overlap = sizes
    pieces = split(text, target, overlap)
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert all(text[piece.start : piece.end] == piece.text for piece in pieces)
    covered = 0
    for piece in pieces:
        assert piece.start <= covered < piece.end
        assert covered - piece.start <= overlap
        covered = piece.end
    assert covered == len(text)
    starts = [piece.start for piece in pieces]
    assert starts == sorted(set(starts))


@given(TEXTS, SIZES)
@settings(max_examples=250, deadline=None)
@example("\r\n\r\n\r\n", (1, 0))
@example("👩🏽\u200d🚒\r\n", (1, 0))
def test_no_character_is_cut_unless_it_is_longer_than_any_language_writes(text: str, sizes: tuple[int, int]) -> None:
    borders = {0}
    at = 0
    for character in graphemes(text):
        borders |= {at + i for i in range(LONGEST_CHARACTER, len(character), LONGEST_CHARACTER)}
        at += len(character)
        borders.add(at)
    pieces = split(text, *sizes)
    assert {at for piece in pieces for at in (piece.start, piece.end)} <= borders
    assert not pieces or longest(pieces) <= max(sizes[0], LONGEST_CHARACTER)


@pytest.mark.parametrize(
    "text",
    [
        "字" * 1_000_000,
        "“" * 300_000,
        "\n" * 300_000,
        "\r\n" * 150_000,
        "e" + "\u0301" * 300_000,
        "字\u0301" * 150_000,
        "第一章\n" * 50_000,
        "“走。" * 100_000,
        '"' * 300_000,
        "。" * 300_000,
        "👩‍" * 100_000,
    ],
    ids=[
        "line",
        "quotes",
        "newlines",
        "crlf",
        "marks",
        "marked",
        "headings",
        "unclosed",
        "straight",
        "stops",
        "joiners",
    ],
)
def test_hostile_texts_end_and_are_covered(text: str) -> None:
    pieces = split(text, 400, 80)
    assert longest(pieces) <= 400
    assert pieces[0].start == 0
    assert pieces[-1].end == len(text)
    assert all(after.start <= before.end for before, after in itertools.pairwise(pieces))
    assert len(pieces) <= len(text) / 100


def test_empty_text_has_no_pieces_and_a_short_one_is_a_piece() -> None:
    assert split("", 100) == []
    assert split("雨停了。", 100) == [Piece(0, 0, 4, "雨停了。")]


@pytest.mark.parametrize(("target", "overlap"), [(0, 0), (-1, 0), (10, -1), (10, 6)])
def test_sizes_out_of_range_are_refused(target: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="target"):
        split("雨", target, overlap)


def test_paragraphs_come_before_sentences() -> None:
    text = "雨停了。他起身推门。\n河上有雾。船还没来，他等着。"
    assert [piece.text for piece in split(text, 20)] == ["雨停了。他起身推门。\n", "河上有雾。船还没来，他等着。"]


def test_sentences_come_before_clauses_and_clauses_before_characters() -> None:
    assert [p.text for p in split("雨停了，雾还没散。他推开门，走出去", 12)] == [
        "雨停了，雾还没散。",
        "他推开门，走出去",
    ]
    assert [p.text for p in split("雨下了一夜终于停了，雾却没散", 12)] == ["雨下了一夜终于停了，", "雾却没散"]
    assert [p.text for p in split("雨下了一夜终于停了", 4)] == ["雨下了一", "夜终于停", "了"]


def test_a_quotation_that_fits_is_kept_whole() -> None:
    text = "老艄公头也不抬，只说：“灯灭之前。不许过河。记住了？”沈砚点头。"
    pieces = [piece.text for piece in split(text, 24)]
    assert "“灯灭之前。不许过河。记住了？”沈砚点头。" in pieces


def test_a_quotation_that_does_not_fit_is_cut_at_its_sentences() -> None:
    text = "“灯灭之前不许过河。河心有东西睡着。它认得灯。你师父用了三十年才让它睡着。”"
    pieces = [piece.text for piece in split(text, 20)]
    assert all(piece[-1] in "。”" for piece in pieces)


@pytest.mark.parametrize("end", ["。", "！", "？", "？！", "。”", "！』", "？」", "……”", "。）", "?", "!"])
def test_sentences_end_with_what_closes_them(end: str) -> None:
    first = f"他在渡口等了一整夜{end}"
    assert split(f"{first}天亮才走到船上", len(first) + 2)[0].text == first


def test_overlap_is_whole_sentences() -> None:
    text = "第一句在这里。第二句也在。第三句很长很长很长。第四句收尾了。"
    pieces = split(text, 18, 8)
    assert pieces[0].text == "第一句在这里。第二句也在。"
    assert pieces[1].text.startswith("第二句也在。第三句")


def test_chapters_are_never_joined_and_do_not_overlap() -> None:
    text = "第一章 渡口\n雨停了。\n第二章 河心\n灯还亮着。\n"
    assert [piece.text for piece in split(text, 100, 50)] == ["第一章 渡口\n雨停了。\n", "第二章 河心\n灯还亮着。\n"]


def test_a_heading_with_nothing_below_it_stays_with_what_follows() -> None:
    text = "第一卷 沉灯渡\n第一章 渡口\n雨停了。\n第二章 河心\n灯还亮着。\n"
    assert [piece.text[:3] for piece in split(text, 100)] == ["第一卷", "第二章"]
