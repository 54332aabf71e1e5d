from __future__ import annotations

import re

import pytest

from services.text.script import EMOJI, HAN, WORD, language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨下了一夜", "zh"),
        ("Rewrite 第三章 please", "zh"),
        ("《》", "zh"),
        ("。", "zh"),
        ("It rained.", "en"),
        ("Шёл дождь", "en"),
        ("“…”", None),  # these marks belong to both
        ("12345", None),
        ("🐉!?", None),
        ("", None),
    ],
)
def test_any_chinese_makes_a_text_chinese_and_other_letters_make_it_english(text: str, expected: str | None) -> None:
    assert language(text) == expected


@pytest.mark.parametrize("one", ["🐉", "❤️", "👍🏽", "👨‍👩‍👧", "🇨🇳", "1️⃣", "☔"])
def test_an_emoji_is_one_however_many_code_points_it_has(one: str) -> None:
    assert [match[0] for match in re.finditer(EMOJI, one + one)] == [one, one]


@pytest.mark.parametrize(
    "one", ["don't", "don’t", "well-known", "3.14", "10,000", "12:30", "café", "cafe\u0301", "Ярость", "V2"]
)
def test_a_word_keeps_its_inner_marks(one: str) -> None:
    assert re.findall(WORD, f"({one}), {one}.") == [one, one]


@pytest.mark.parametrize("one", ["剑", "〇", "々", "𠮷", "㐂"])
def test_rare_characters_are_chinese_too(one: str) -> None:
    assert re.fullmatch(f"[{HAN}]", one)


@pytest.mark.parametrize("one", ["，", "あ", "a", "１", "한"])
def test_marks_kana_and_digits_are_not_chinese_characters(one: str) -> None:
    assert not re.fullmatch(f"[{HAN}]", one)
