from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.gate import Stopped
from services.llm.words import Action, WordGate, WordList

ALPHABET = "林黛玉Aa，"
texts = st.text(ALPHABET, max_size=40)
words = st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=6)
cuts = st.lists(st.integers(0, 40))


def split(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(p for p in places if p < len(text))})
    return [text[a:b] for a, b in pairwise(edges)]


def through(words: WordList, pieces: list[str], action: Action = "mask") -> str:
    gate, said = WordGate(words, action), ""
    try:
        for piece in pieces:
            said += gate.feed(piece)
        return said + gate.close()
    except Stopped as stop:
        return said + stop.last


def naive(text: str, words: list[str]) -> str:
    """The same, slowly: the word that ends first is masked, the longest of those that end there."""
    folded, masked, since = text.lower(), list(text), 0
    for end in range(1, len(text) + 1):
        for start in range(since, end):
            if folded[start:end] in words:
                masked[start:end] = "*" * (end - start)
                since = end
                break
    return "".join(masked)


@given(texts, words, cuts)
def test_words_are_found_over_any_number_of_deltas(text: str, listed: list[str], places: list[int]) -> None:
    word_list = WordList(listed)
    assert through(word_list, split(text, places)) == naive(text, word_list.words)


@given(texts, words, cuts)
def test_no_more_is_held_back_than_the_longest_word(text: str, listed: list[str], places: list[int]) -> None:
    word_list = WordList(listed)
    longest = max((len(word) for word in word_list.words), default=1)
    gate = WordGate(word_list, "mask")
    fed = said = 0
    for piece in split(text, places):
        fed += len(piece)
        said += len(gate.feed(piece))
        assert fed - said < longest


@given(texts, words, cuts)
def test_stop_ends_the_text_before_the_word(text: str, listed: list[str], places: list[int]) -> None:
    word_list = WordList(listed)
    said = through(word_list, split(text, places), "stop")
    first = naive(text, word_list.words).find("*")
    assert said == (text if first < 0 else text[:first])


def test_text_without_words_waits_for_nothing() -> None:
    gate = WordGate(WordList(["黛玉"]), "mask")
    assert gate.feed("林") == "林"
    assert gate.feed("黛") == ""
    assert gate.feed("色") == "黛色"
    assert gate.hits == 0


def test_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# 注释\n宝玉\n\n  黛玉 \n", encoding="utf-8")
    assert WordList.read(path).words == ["宝玉", "黛玉"]


@pytest.mark.parametrize("text", ["İİ", "ẞß", "ﬁ"])
def test_characters_whose_lower_case_is_longer_keep_their_place(text: str) -> None:
    assert through(WordList(["z"]), [f"{text}z{text}"]) == f"{text}*{text}"
