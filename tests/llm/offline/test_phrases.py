from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.offline.phrases import Phrase, repeated_phrase
from services.text.script import Language

from .samples import EMPTY_BOX, NIGHT_RAIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨还在下。他知道雨还在下，灯也还亮着。远处，雨还在下。", Phrase("雨还在下", 3)),
        ("他没有回头。她喊了一声，他没有回头。", Phrase("他没有回头", 2)),  # grown beyond four characters
        ("甲乙丙丁，丙丁戊己。", None),
        ("的时候，的时候，的时候。", None),  # three characters repeat anywhere
        ("哈哈哈哈哈哈", None),  # twice only if it overlapped itself
        ("", None),
    ],
)
def test_the_chinese_phrase_that_stands_most_often_is_found_at_full_length(text: str, expected: Phrase | None) -> None:
    assert repeated_phrase(text, "zh") == expected


def test_a_name_and_little_more_is_no_phrase() -> None:
    text = "林晚秋说话了。林晚秋说好。门没有关。她走了，门没有关。"
    assert repeated_phrase(text, "zh", ("林晚秋",)) == Phrase("门没有关", 2)


def test_a_refrain_with_a_name_in_it_is_a_phrase() -> None:
    assert repeated_phrase("林远没有回头。林远没有回头。", "zh", ("林远",)) == Phrase("林远没有回头", 2)


def test_english_phrases_are_made_of_whole_words() -> None:
    assert repeated_phrase(EMPTY_BOX, "en") == Phrase("The rain kept falling", 2)
    assert repeated_phrase("at the door, that the doors, at the dock", "en") is None


def test_a_phrase_does_not_reach_across_a_mark() -> None:
    assert repeated_phrase("一二，三四。一二，三四。", "zh") is None
    assert repeated_phrase("one two, three. one two, three.", "en") is None


def test_the_refrain_of_a_chapter_is_found() -> None:
    assert repeated_phrase(NIGHT_RAIN, "zh", ("林晚秋", "顾长风")) == Phrase("雨声还在", 2)


@given(st.text(alphabet="雨夜灯，。 \n"), st.sampled_from(["zh", "en"]))
def test_a_phrase_that_is_found_stands_as_often_as_is_said(text: str, language: Language) -> None:
    phrase = repeated_phrase(text, language)
    if phrase:
        assert text.count(phrase.text) == phrase.count >= 2


@given(st.text(alphabet="ab ,"))
def test_an_english_phrase_that_is_found_stands_as_often_as_is_said(text: str) -> None:
    phrase = repeated_phrase(text, "en")
    if phrase:
        clauses = [f" {'  '.join(clause.split())} " for clause in text.split(",")]
        assert sum(clause.count(f" {'  '.join(phrase.text.split())} ") for clause in clauses) == phrase.count >= 2
