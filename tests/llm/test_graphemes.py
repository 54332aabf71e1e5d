from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.graphemes import clip, graphemes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨夜a", ["雨", "夜", "a"]),
        ("cafe\u0301!", ["c", "a", "f", "e\u0301", "!"]),
        ("👨‍👩‍👧👍🏽❤️", ["👨‍👩‍👧", "👍🏽", "❤️"]),
        ("🇨🇳🇩🇪🇫", ["🇨🇳", "🇩🇪", "🇫"]),
        ("1️⃣2", ["1️⃣", "2"]),
        ("\u1112\u1161\u11ab글", ["\u1112\u1161\u11ab", "글"]),
        ("が\u304b\u3099", ["が", "\u304b\u3099"]),
        ("a\r\nb\n\u0301", ["a", "\r\n", "b", "\n", "\u0301"]),
        ("a\u200d\nb", ["a\u200d", "\n", "b"]),
        ("नि", ["नि"]),
        ("", []),
    ],
)
def test_a_character_is_what_a_reader_sees_as_one(text: str, expected: list[str]) -> None:
    assert list(graphemes(text)) == expected


@given(st.text(alphabet=st.characters()))
def test_the_characters_of_a_text_joined_are_the_text(text: str) -> None:
    assert "".join(graphemes(text)) == text


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("雨下了一夜", 5, "雨下了一夜"),
        ("雨下了一夜", 4, "雨下了一……"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301e\u0301……"),
        ("👨‍👩‍👧👨‍👩‍👧", 1, "👨‍👩‍👧……"),
        ("", 3, ""),
    ],
)
def test_a_clipped_text_ends_between_characters_and_says_so(text: str, limit: int, expected: str) -> None:
    assert clip(text, limit, "……") == expected


@given(st.text(alphabet="雨e\u0301\u200d👨"), st.integers(1, 6))
def test_a_clipped_text_is_bounded_in_code_points_too(text: str, limit: int) -> None:
    clipped = clip(text, limit, "……")
    assert clipped == text or (clipped.endswith("……") and text.startswith(clipped[:-2]))
    assert len(clipped) <= 8 * limit + 2
