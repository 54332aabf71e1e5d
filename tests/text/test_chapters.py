from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.chapters import Chapter, flaws, split
from services.text.numerals import numeral_of
from tests.tool.story import STORY


def heads(text: str) -> list[tuple[str, int | None, str]]:
    return [(one.kind, one.number, one.title) for one in split(text)]


def test_a_story_is_cut_at_its_headings() -> None:
    pieces = split(STORY)
    assert heads(STORY) == [
        ("prologue", None, "楔子"),
        ("chapter", 1, "药铺来客"),
        ("chapter", 2, "旧账"),
        ("epilogue", None, "尾声"),
    ]
    assert "".join(STORY[one.start : one.end] for one in pieces) == STORY
    assert STORY[pieces[1].start : pieces[1].body] == "第一章 药铺来客\n"
    assert STORY[pieces[1].body : pieces[1].end].strip().startswith("沈怀安放下药秤")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("第3章", ("chapter", 3, "")),
        ("第１２章：归来", ("chapter", 12, "归来")),
        ("　　第十二章 你好，再见！", ("chapter", 12, "你好，再见！")),
        ("第十二章夜雨", ("chapter", 12, "夜雨")),
        ("第二十回 上句写雪 下句写灯", ("chapter", 20, "上句写雪 下句写灯")),
        ("第一卷 风起 第五章 初见", ("chapter", 5, "初见")),
        ("【第五章】", ("chapter", 5, "")),
        ("## 第一章 雨", ("chapter", 1, "雨")),
        ("正文 第一章 雨", ("chapter", 1, "雨")),
        ("第 7 章  夜", ("chapter", 7, "夜")),
        ("卷一 风", ("volume", 1, "风")),
        ("卷三·雪", ("volume", 3, "雪")),
        ("第二部 归途", ("volume", 2, "归途")),
        ("第二節 渡口", ("section", 2, "渡口")),
        ("番外一 春天", ("extra", 1, "春天")),
        ("番外：春天", ("extra", None, "春天")),
        ("大结局（上）", ("epilogue", None, "大结局（上）")),
        ("序", ("prologue", None, "序")),
    ],
)
def test_heading_is_read(line: str, expected: tuple[str, int | None, str]) -> None:
    assert heads(f"{line}\n雪下了一夜。\n") == [expected]


@pytest.mark.parametrize(
    "line",
    [
        "第四回中既将此事说明，此回暂且不写了。",
        "第一章 我们讲过的内容，他已经忘了。",
        "第三章他走了",
        "第二节课开始了",
        "第三回合，他败了",
        "第二部分",
        "第十百章 错",
        "他翻到第三章",
        "序幕拉开了。",
        "序列号是多少",
        "尾声响起，他走了。",
        "卷二十年的旧书",
        "第五章" + "雪" * 60,
    ],
)
def test_sentence_that_begins_like_a_heading_is_none(line: str) -> None:
    assert heads(f"{line}\n雪下了一夜。\n") == [("front", None, "")]


def test_text_before_the_first_heading_is_a_piece_of_its_own() -> None:
    assert [one.kind for one in split("书名\n\n第一章\n雪")] == ["front", "chapter"]
    assert [one.start for one in split("\n\n第一章\n雪")] == [2]
    assert split("") == []
    assert split(" \n") == []


def numbered(*numbers: int | tuple[str, int]) -> list[Chapter]:
    pairs = [("章", one) if isinstance(one, int) else one for one in numbers]
    return [Chapter("chapter", unit, number, "", at, at, at) for at, (unit, number) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1, 2, 3), []),
        ((5, 6), []),
        ((1, 3), [("gap", 2, 2)]),
        ((1, 5, 6), [("gap", 2, 4)]),
        ((1, 2, 2, 3), [("duplicate", 2, 2)]),
        ((1, 2, 3, 2, 4), [("duplicate", 2, 2)]),
        ((3, 2, 4), [("backward", 2, 2)]),
        ((("卷", 1), 1, 2, ("卷", 2), 1, 2), []),
        ((("卷", 1), 1, 2, ("卷", 2), 3, 4), []),
        ((("卷", 1), 1, 2, ("卷", 2), 4), [("gap", 3, 3)]),
        ((1, 2, 1), [("duplicate", 1, 1)]),
        ((1, ("节", 1), ("节", 2), 2, ("节", 1)), []),
        ((("卷", 1), ("卷", 3), 1), [("gap", 2, 2)]),
    ],
)
def test_numbers_are_checked(numbers: tuple[int | tuple[str, int], ...], expected: list[tuple[str, int, int]]) -> None:
    assert [(flaw.kind, flaw.number, flaw.last) for flaw in flaws(numbered(*numbers))] == expected


@given(st.lists(st.sampled_from(["第一章 雪", "第2章", "楔子", "雪下了一夜。", "", "\u3000", "卷三 风"]), max_size=12))
def test_pieces_follow_each_other_to_the_end(lines: list[str]) -> None:
    text = "\n".join(lines)
    pieces = split(text)
    assert all(one.start <= one.body <= one.end for one in pieces)
    assert [one.end for one in pieces[:-1]] == [one.start for one in pieces[1:]]
    if pieces:
        assert pieces[-1].end == len(text)
        assert text[: pieces[0].start].strip() == ""


@given(st.integers(1, 9999), st.sampled_from("章回卷节"))
def test_any_number_makes_a_heading(number: int, unit: str) -> None:
    for numeral in (str(number), numeral_of(number)):
        [piece] = split(f"第{numeral}{unit} 雪")
        assert (piece.number, piece.unit, piece.title) == (number, unit, "雪")
