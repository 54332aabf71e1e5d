from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.quotes import passages

texts = st.text('“”「」『』‘’"雪山，\n', max_size=40)


def quoted(text: str) -> list[str]:
    return [text[one.start : one.end] for one in passages(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他说：“走吧。”", ["走吧。"]),
        ("「他說『走』就走。」", ["他說『走』就走。"]),
        ("“我听他说“好了”二字。”她笑了。", ["我听他说“好了”二字。"]),
        ('他说"走"，又说"来"。', ["走", "来"]),
        ('一块 5" 的屏，"好"。', [" 的屏，"]),
        ("“没有说完\n他走了。", ["没有说完"]),
        ("“第一段。\n“第二段。”", ["第一段。", "第二段。"]),
        ("他走了”，雪停了。", []),
        ("it’s ‘snow’", []),
        ("“it’s ‘snow’”", ["it’s ‘snow’"]),
        ("“他说「走”。雪停了。", ["他说「走"]),
        ('“他说"走"。”', ['他说"走"。']),
        ("“”", [""]),
    ],
)
def test_outermost_passages_are_found(text: str, expected: list[str]) -> None:
    assert quoted(text) == expected


def test_passage_that_is_not_closed_says_so() -> None:
    assert [one.closed for one in passages("“一。”“二\n")] == [True, False]


@given(texts)
def test_passages_lie_in_their_line_and_do_not_overlap(text: str) -> None:
    last = 0
    for one in passages(text):
        assert last <= one.start <= one.end <= len(text)
        assert "\n" not in text[one.start : one.end]
        assert text[one.start - 1] in '“「『"'
        assert not one.closed or text[one.end] in '”」』"'
        assert one.closed or text[one.end : one.end + 1] in ("", "\n")
        last = one.end


@given(texts)
def test_lines_are_read_one_by_one(text: str) -> None:
    assert quoted(text) == [passage for line in text.split("\n") for passage in quoted(line)]
