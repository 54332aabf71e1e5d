from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.text.repeats import Repeat, repeats


def found(text: str, least: int = 4, most: int = 12, distance: int = 300) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.text, one.positions) for one in repeats(text, least, most, distance)]


def test_phrase_that_comes_again_is_found_with_its_places() -> None:
    assert found("窗外大雪纷飞。他抬头，窗外大雪纷飞。") == [("窗外大雪纷飞", (0, 11))]


def test_part_of_a_longer_phrase_is_told_only_if_it_stands_elsewhere() -> None:
    assert found("窗外大雪纷飞，窗外大雪纷飞，只有大雪纷飞。") == [("大雪纷飞", (2, 9, 16)), ("窗外大雪纷飞", (0, 7))]


def test_phrase_does_not_cross_a_mark() -> None:
    assert found("大雪，纷飞。大雪，纷飞。") == []


def test_what_is_far_away_does_not_count() -> None:
    text = "大雪纷飞" + "，" * 20 + "大雪纷飞"
    assert found(text, distance=24) == [("大雪纷飞", (0, 24))]
    assert found(text, distance=23) == []


def test_phrase_does_not_overlap_itself() -> None:
    assert found("哈哈哈哈哈哈哈") == []
    assert found("哈哈哈哈哈哈哈哈", most=4) == [("哈哈哈哈", (0, 4))]


def test_what_is_longer_than_the_limit_is_told_once_by_its_beginning() -> None:
    line = "那一夜渡口的雪下得比往年都要大一些"
    assert repeats(f"{line}。{line}。", 4, 6, 300) == [Repeat(line[:6], (0, 18), is_part=True)]


def test_ordinary_phrases_are_left_out() -> None:
    text = "大雪纷飞，大雪纷飞；也没有什么，也没有什么。"
    assert [one.text for one in repeats(text, 4, 12, 300, lambda phrase: "没有" in phrase)] == ["大雪纷飞"]


@given(st.text("雪山水，", max_size=60), st.integers(2, 4), st.integers(0, 3), st.integers(1, 30))
def test_places_are_right_apart_and_near(text: str, least: int, more: int, distance: int) -> None:
    told = repeats(text, least, least + more, distance)
    for one in told:
        size = len(one.text)
        assert least <= size <= least + more
        assert "，" not in one.text
        assert len(one.positions) > 1
        for at in one.positions:
            assert text.startswith(one.text, at)
            assert any(size <= abs(at - other) <= distance for other in one.positions)
        assert all(b - a >= size for a, b in zip(one.positions, one.positions[1:], strict=False))
    assert len({one.text for one in told}) == len(told)


@given(st.text("雪山，", max_size=40), st.integers(2, 4), st.integers(1, 30))
def test_every_repeat_is_told_or_within_one_that_is(text: str, least: int, distance: int) -> None:
    """The slow twin: each pair of equal phrases of the shortest length is covered by something that is told."""
    most = least + 3
    told = repeats(text, least, most, distance)
    for at in range(len(text) - least + 1):
        phrase = text[at : at + least]
        again = text.find(phrase, at + least, at + distance + least)
        if "，" in phrase or again < 0:
            continue
        assert any(phrase in one.text for one in told) or _is_within_a_longer_one(text, at, again, least, most)


def _is_within_a_longer_one(text: str, at: int, again: int, least: int, most: int) -> bool:
    """Whether the same characters stand before both places, so that a longer repeat was told by its beginning."""
    return at > 0 and text[at - 1] == text[again - 1] and text[at - 1] != "，"
