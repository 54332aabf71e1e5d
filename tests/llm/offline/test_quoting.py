from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.offline.quoting import quote_chinese, quote_english, tidy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨停了。", "“雨停了。”"),
        ("你好", "“你好”。"),  # the quoting sentence ends behind the quotation
        ("他说：“走。”", "“他说：‘走。’”"),  # quotes in quotes become single
        ("“走吧。", "“走吧。”"),  # half a pair, at the edge
        ("走得远远的。”", "“走得远远的。”"),
        ("她低声说：“你来了。", "“她低声说：‘你来了。’”"),  # half a pair, inside
        ("「好。」", "“「好。」”"),
        ('他说："走。"她说："好', "“他说：‘走。’她说：‘好’”。"),
        ('走得远远的。"他说。', "“走得远远的。’他说。”"),
        ("第三章\u3000 夜雨\n", "“第三章 夜雨”。"),
    ],
)
def test_a_chinese_quotation_is_set_as_an_editor_would(text: str, expected: str) -> None:
    assert quote_chinese(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained.", "“It rained.”"),
        ("Who", "“Who”."),  # no mark is put into somebody's mouth
        ('"Who is there?"', "“‘Who is there?’”"),
        ('"Go," he said.', "“‘Go,’ he said.”"),
        ('Perhaps," he said, "it rained."', "“Perhaps,’ he said, ‘it rained.’”"),
        ("She said, “Go.”", "“She said, ‘Go.’”"),
    ],
)
def test_an_english_quotation_is_set_as_an_editor_would(text: str, expected: str) -> None:
    assert quote_english(text) == expected


def test_a_long_quotation_is_cut_and_says_so() -> None:
    assert quote_chinese("雨" * 40, 6) == "“雨雨雨雨雨雨……”"
    assert quote_english("rain " * 40, 9) == "“rain rain…”"
    assert quote_chinese("她说：“" + "雨" * 40, 6) == "“她说：‘雨雨……’”"


def test_a_text_that_is_blank_for_long_is_marked_as_cut_too() -> None:
    assert tidy("雨" + " " * 10_000 + "夜", 10, "……") == "雨……"


def test_nothing_in_a_quotation_can_turn_the_answer_around() -> None:
    assert tidy("a\u202eb\u2066c\x00d\x1b[1m\ud800e\u200b", 20, "…") == "abcd[1me"


@given(st.text(alphabet=st.characters()), st.integers(1, 20))
def test_a_quotation_is_short_and_on_one_line(text: str, limit: int) -> None:
    quotation = tidy(text, limit, "……")
    assert len(quotation) <= 8 * limit + 2
    assert not any(char in quotation for char in "\n\r\t\x00\u202e\u2028")
