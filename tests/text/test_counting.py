from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.counting import Counts, count, count_paragraphs, dialogue_share, sentences, speech
from tests.llm.offline.samples import EMPTY_BOX, NIGHT_RAIN, SWORD_TRIAL


@pytest.mark.parametrize(
    ("text", "zi"),
    [
        ("雨下了整整一夜。", 8),
        ("他说：“走。”", 7),  # each mark is one
        ("我……我不知道——", 9),  # an ellipsis is two, and so is a dash
        ("用AI写作", 4),  # a run of letters is one
        ("他等了1000年", 5),
        ("第 三 章\n\n夜雨", 5),  # spaces and line ends are none
        ("你好,世界!", 4),  # half-width marks are none
        ("好😀😀", 1),
        ("Ｑ版", 2),  # a full-width letter is a letter
        ("𠮷野家", 3),
        ("", 0),
    ],
)
def test_zi_are_counted_as_platforms_do(text: str, zi: int) -> None:
    assert count(text).zi == zi


def test_each_kind_is_counted_apart() -> None:
    assert count("林远说:“Go, 快走！”👍🏽👨‍👩‍👧 v2.0") == Counts(cjk=5, marks=3, words=2, emoji=2, symbols=2)


@pytest.mark.parametrize("sample", [NIGHT_RAIN, SWORD_TRIAL])
def test_in_a_purely_chinese_text_everything_but_space_is_zi(sample: str) -> None:
    assert count(sample).zi == len("".join(sample.split()))


@pytest.mark.parametrize("text", ["", " \n\t\u3000", "\u200b\u200d\ufeff", "\u202e"])
def test_what_leaves_no_ink_is_not_counted(text: str) -> None:
    assert count(text) == Counts()


def test_lines_with_something_on_them_are_paragraphs() -> None:
    assert count_paragraphs("第一段\n\n  \n第二段\u3000\n\u200b\n") == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨停了。他走了！", ["雨停了。", "他走了！"]),
        ("真的？！你再说一遍？", ["真的？！", "你再说一遍？"]),
        ("“谁？”她问。", ["“谁？”", "她问。"]),
        ("“走吧。走得远远的。”他说", ["“走吧。", "走得远远的。”", "他说"]),
        ("「好。」『好！』", ["「好。」", "『好！』"]),
        ("（他笑了。）门开了。", ["（他笑了。）", "门开了。"]),
        ("第三章 夜雨\n雨下了一夜", ["第三章 夜雨", "雨下了一夜"]),
        ('"走吧。"她道。"好！"', ['"走吧。"', "她道。", '"好！"']),
        ("没有撑伞?他说", ["没有撑伞?", "他说"]),
    ],
)
def test_a_chinese_sentence_ends_at_its_mark_and_keeps_its_closing_quotes(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_an_ellipsis_ends_a_sentence_only_before_a_closing_quote_or_a_line_end() -> None:
    assert sentences("“我……我不知道……”他说……过了很久，又说：“算了……”\n雨……") == [
        "“我……我不知道……”",
        "他说……过了很久，又说：“算了……”",
        "雨……",
    ]


def test_a_line_without_letters_is_no_sentence() -> None:
    assert sentences("“……”\n！！！\n😀\n他没有回答。") == ["他没有回答。"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. He left!", ["It rained.", "He left!"]),
        ('"Who is it?" she asked.', ['"Who is it?"', "she asked."]),
        ("“Go.” He went.", ["“Go.”", "He went."]),
        ("He said 'go.' Then he went.", ["He said 'go.'", "Then he went."]),
        ("Mr. Gray met J. R. Smith at 5.30, e.g. today.", ["Mr. Gray met J. R. Smith at 5.30, e.g. today."]),
        ("See http://a.example/b?c=d now. Go", ["See http://a.example/b?c=d now.", "Go"]),
        ("Well... I think so. Well...", ["Well... I think so.", "Well..."]),
        ("A line that was\nwrapped. Another", ["A line that was\nwrapped.", "Another"]),
        ("A heading\nThe text", ["A heading", "The text"]),
    ],
)
def test_an_english_sentence_ends_at_a_full_stop_but_not_at_every_dot(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_the_passages_have_as_many_sentences_as_a_reader_finds() -> None:
    assert [len(sentences(sample)) for sample in (NIGHT_RAIN, SWORD_TRIAL, EMPTY_BOX)] == [20, 13, 12]


@given(st.text(alphabet="雨夜。！？…“”「」\"'().!? \nabA,，😀"))
def test_sentences_lose_and_repeat_no_letter(text: str) -> None:
    def letters(of: str) -> list[str]:
        return [char for char in of if char.isalpha()]

    assert letters("".join(sentences(text))) == letters(text)


@pytest.mark.parametrize(
    ("text", "passages", "zi"),
    [
        ("他说：“走。”", 1, 2),
        ("「走。」『好！』", 2, 4),
        ("「他说『走』了。」", 1, 7),  # one passage within another
        ('他说："走。"她说："好。"', 2, 4),
        ("“没有说完的话\n下一段", 1, 6),  # a passage ends with its line
        ('屏幕有6"大', 0, 0),  # a lone straight quote opens nothing
        ("没有引号", 0, 0),
        ("“”", 0, 0),
    ],
)
def test_speech_is_what_stands_between_quotation_marks(text: str, passages: int, zi: int) -> None:
    found = speech(text)
    assert (found.passages, found.counts.zi) == (passages, zi)


def test_the_share_of_dialogue_is_between_nothing_and_everything() -> None:
    assert dialogue_share("她问：“谁？”") == pytest.approx(2 / 7)
    assert dialogue_share("没有人说话。") == 0
    assert dialogue_share("") == 0
    assert speech(SWORD_TRIAL).passages == 6


HALF_A_MEGABYTE = 512 * 1024
UNITS = [
    "雨",
    "…",
    "！…",
    "。",
    ".",
    '."',
    "? ",
    "“",
    '"a',
    "\n ",
    "… ",
    "a-",
    "1.",
    "👨\u200d",
    "e\u0301",
    "a. ",
    "Aa b ",
    " ",
    "!a",
]


@pytest.mark.parametrize("unit", UNITS)
def test_half_a_megabyte_of_anything_is_counted_in_linear_time(unit: str) -> None:
    """A rule that backtracks needs minutes: a hundred thousand characters squared are ten thousand million steps."""
    text = unit * (HALF_A_MEGABYTE // len(unit.encode())) + "x"
    start = time.thread_time()
    for measure in (count, sentences, speech, count_paragraphs):
        measure(text)
    assert time.thread_time() - start < 3
