from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.traditional import simplified
from services.tool.builtin import word_finder
from services.tool.builtin.sensitive_words import SensitiveWordsParameters, sensitive_words, use_list
from services.tool.builtin.word_finder import Hit, WordFinder
from services.tool.errors import ToolFailed

WORDS = ("敏感词", "违禁", "fun", "kg", "A.B")


def found(text: str, *words: str) -> list[tuple[str, str, bool]]:
    return [(hit.word, text[hit.start : hit.end], hit.exact) for hit in WordFinder(words or WORDS).find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这是敏感词。", [("敏感词", "敏感词", True)]),
        ("敏*感-词", [("敏感词", "敏*感-词", False)]),
        ("敏 感　词", [("敏感词", "敏 感　词", False)]),
        ("敏\u200b感\u200d词", [("敏感词", "敏\u200b感\u200d词", False)]),
        ("敏感詞", [("敏感词", "敏感詞", False)]),
        ("違禁", [("违禁", "違禁", False)]),
        ("敏感\u0301词", [("敏感词", "敏感\u0301词", False)]),
        ("FUN", [("fun", "FUN", True)]),
        ("Ｆ-ｕ-ｎ", [("fun", "Ｆ-ｕ-ｎ", False)]),
        ("f u n!", [("fun", "f u n", False)]),
        ("5㎏", []),
        ("重㎏", [("kg", "㎏", False)]),
        ("a.b", [("A.B", "a.b", True)]),
        ("敏****感词", [("敏感词", "敏****感词", False)]),
        ("违禁违禁", [("违禁", "违禁", True)] * 2),
    ],
)
def test_words_are_found_however_they_are_written(text: str, expected: list[tuple[str, str, bool]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text", ["", "敏感", "敏*****感词", "敏感\n词", "违。禁", "违，禁", "function", "of un", "fu n", "pfun"]
)
def test_what_is_no_word(text: str) -> None:
    assert found(text) == []


def test_of_words_that_overlap_the_first_and_longest_is_told() -> None:
    assert found("大雪纷飞", "雪纷飞", "大雪", "大雪纷") == [("大雪纷", "大雪纷", True)]


def test_list_without_words() -> None:
    assert WordFinder(["", " ", "***"]).find("雪***") == []
    assert len(WordFinder(["***"])) == 0


def test_tool_tells_places() -> None:
    told = sensitive_words(SensitiveWordsParameters(text="雪，违*禁", words=["违禁"]))
    assert told.total == 1
    [hit] = told.hits
    assert (hit.word, hit.written, hit.start, hit.end, hit.exact) == ("违禁", "违*禁", 2, 5, False)


def test_hits_are_counted_all_and_told_up_to_a_limit() -> None:
    told = sensitive_words(SensitiveWordsParameters(text="违禁" * 600, words=["违禁"]))
    assert (told.total, len(told.hits)) == (600, 500)


@pytest.fixture
def own_list() -> Iterator[None]:
    yield
    use_list([])


@pytest.mark.usefixtures("own_list")
def test_list_of_the_deployment_is_used_without_one_of_the_call() -> None:
    with pytest.raises(ToolFailed, match="no words to look for"):
        sensitive_words(SensitiveWordsParameters(text="违禁"))
    sensitive_words.set_up(["违禁"])
    assert sensitive_words(SensitiveWordsParameters(text="违禁")).total == 1
    assert sensitive_words(SensitiveWordsParameters(text="违禁", words=["雪"])).total == 0


@pytest.mark.parametrize("wrong", ["违禁", [1], None])
def test_list_must_be_one(wrong: object) -> None:
    with pytest.raises(TypeError, match="list of words"):
        use_list(wrong)


ALPHABET = "雪詞词*-ａaB "
listed = st.lists(st.text("雪词aB", min_size=1, max_size=3), min_size=1, max_size=4)


@given(st.text(ALPHABET, max_size=30), listed)
def test_hits_index_the_text_and_hold_their_word(text: str, words: list[str]) -> None:
    last = 0
    for hit in WordFinder(words).find(text):
        assert last <= hit.start < hit.end <= len(text)
        last = hit.end
        kept = [char for char in text[hit.start : hit.end] if char not in "*- "]
        assert simplified("".join(kept)).replace("ａ", "a").lower() == hit.word.lower()
        assert text[hit.start] not in "*- "
        assert text[hit.end - 1] not in "*- "


@given(st.text("雪山词，", max_size=30), st.lists(st.text("雪山词", min_size=1, max_size=3), min_size=1, max_size=4))
def test_plain_text_is_searched_as_the_slow_way_does(text: str, words: list[str]) -> None:
    expected: list[Hit] = []
    at = 0
    while at < len(text):
        longest = max((word for word in words if text.startswith(word, at)), key=len, default="")
        if longest:
            expected.append(Hit(longest, at, at + len(longest), exact=True))
        at += max(1, len(longest))
    assert WordFinder(words).find(text) == expected


@pytest.mark.parametrize(("text", "word"), [("a" * 5000, "a" * 50), ("雪" * 5000, "雪" * 50), ("a-" * 2500, "a" * 50)])
def test_text_that_nearly_is_a_long_word_everywhere_is_read_once(
    monkeypatch: pytest.MonkeyPatch, text: str, word: str
) -> None:
    read = 0
    fold = word_finder._fold_char

    def counted(char: str) -> str:
        nonlocal read
        read += 1
        return fold(char)

    finder = WordFinder([word])
    monkeypatch.setattr(word_finder, "_fold_char", counted)
    finder.find(text)
    assert read <= 3 * len(text)  # itself, and a neighbour on each side where a word may be


@pytest.mark.parametrize(
    ("text", "expected"), [("5m²g", []), ("m㎏", []), ("㎏m", []), ("㎏㎏", [("kgkg", "㎏㎏", False)])]
)
def test_word_begins_and_ends_with_a_character(text: str, expected: list[tuple[str, str, bool]]) -> None:
    assert found(text, "g", "gm", "mk", "kgkg") == expected
