from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.seam import Seam

BEFORE = "他推开门，看见院子里一片雪。她说"


def joined(before: str, pieces: list[str]) -> str:
    seam = Seam(before)
    return "".join([*(seam.feed(piece) for piece in pieces), seam.close()])


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("：“你来了。”", "：“你来了。”"),
        ("雪。她说：“你来了。”", "：“你来了。”"),
        ("她说：“你来了。”", "她说：“你来了。”"),  # two characters are more often the language's own
        ("一片雪。她说：“你来了。”", "：“你来了。”"),
        (BEFORE + "：“你来了。”", "：“你来了。”"),
        ("院子里没有人。", "院子里没有人。"),  # it was there before, but not at the end
        ("院子里", "院子里"),
        ("", ""),
    ],
)
def test_rest_does_not_begin_with_what_is_there(rest: str, said: str) -> None:
    assert joined(BEFORE, [rest]) == said
    assert joined(BEFORE, list(rest)) == said


@pytest.mark.parametrize(
    ("before", "rest"),
    [
        ("哈哈哈哈", "哈哈哈哈，你来了"),
        ("一步一步", "一步一步地走"),
        ("走啊", "走啊走"),
        ("ban", "ana"),
        ("Miss", "issippi"),
        ("}\n", "}\n}\n"),
        ("10", "10 metres"),
    ],
)
def test_what_a_text_may_well_say_twice_is_not_taken_for_a_repeat(before: str, rest: str) -> None:
    assert joined(before, [rest]) == rest
    assert joined(before, list(rest)) == rest


def test_answer_that_is_begun_again_from_its_first_word_goes_on_at_its_last() -> None:
    chapter = "".join(f"第{n}句，雨又下了起来。" for n in range(400))
    again = [chapter[i : i + 7] for i in range(0, len(chapter), 7)]
    assert joined(chapter, [*again, "天亮了。"]) == "天亮了。"


def test_words_of_other_scripts_are_repeats_when_they_are_long_enough() -> None:
    assert joined("He opened the door and saw", ["the door and saw", " snow."]) == " snow."


def test_rest_that_differs_at_once_waits_for_nothing() -> None:
    seam = Seam(BEFORE)
    assert seam.feed("：") == "："
    assert seam.feed("她说") == "她说"


def test_without_a_text_before_everything_passes() -> None:
    seam = Seam("")
    assert seam.feed("她说") == "她说"


@given(st.text("他她说，看雪", max_size=30), st.text("他她说，看雪", max_size=30), st.lists(st.integers(1, 5)))
def test_nothing_is_lost_but_a_repeat_and_pieces_do_not_matter(before: str, rest: str, sizes: list[int]) -> None:
    pieces, left = [], rest
    for size in sizes:
        pieces.append(left[:size])
        left = left[size:]
    said = joined(before, [*pieces, left])
    assert rest.endswith(said)
    dropped = rest[: len(rest) - len(said)]
    assert before.endswith(dropped)
    assert not dropped or len(dropped) >= 4
    assert said == joined(before, [rest])
