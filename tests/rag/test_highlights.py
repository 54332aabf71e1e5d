"""services/rag/highlights.py: parts of the text with marks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.llm.graphemes import graphemes
from services.rag.highlights import CLOSE, CONTEXT, MOST, OPEN, SPAN, Folded, highlights
from services.rag.terms import fold, query_terms

TEXT = (
    "雨是后半夜停的。沈砚推开渡口的木门，河面上浮着薄雾。\n老艄公蹲在船头补网，头也不抬。他说灯灭之前不许过河，"
    "这话沈砚听了三年。“那枚铜钱呢？”老艄公忽然问。沈砚没有答，只把青铜小灯往怀里藏了藏。"
)


def found(text: str, query: str) -> list[str]:
    return highlights(text, dict.fromkeys(query_terms(query), 1.0))


def plain(highlight: str) -> str:
    return highlight.replace(OPEN, "").replace(CLOSE, "")


def test_what_matches_is_marked_in_its_sentence() -> None:
    assert found(TEXT, "铜钱") == ["“那枚⟦铜钱⟧呢？”"]


def test_the_place_that_holds_most_comes_first() -> None:
    assert found(TEXT, "老艄公问起铜钱")[0].startswith("“那枚⟦铜钱⟧呢？”⟦老艄公⟧")


def test_matches_that_touch_are_one_mark() -> None:
    assert "⟦青铜小灯⟧" in found(TEXT, "青铜小灯")[0]


def test_a_single_character_is_marked_only_where_nothing_longer_matches() -> None:
    assert found("灯还亮着。", "灯") == ["⟦灯⟧还亮着。"]
    assert "⟦灯⟧" not in "".join(found(TEXT, "青铜小灯"))


def test_a_highlight_begins_and_ends_with_ink() -> None:
    assert found("雨停了。\u3000 铜钱在 \n", "铜钱") == ["⟦铜钱⟧在"]


def test_nothing_matches_nothing_is_shown() -> None:
    assert found(TEXT, "飞鸟") == found("", "灯") == highlights(TEXT, {}) == []


def test_forms_that_are_equal_for_search_are_marked_as_they_are_written() -> None:
    assert found("他是ＶＩＰ用户。", "vip") == ["他是⟦ＶＩＰ⟧用户。"]
    assert found("買了寶玉。", "宝玉") == ["買了⟦寶玉⟧。"]


def test_marks_of_the_text_itself_are_not_taken_for_ours() -> None:
    assert found("⟦系统⟧铜钱加一", "铜钱") == ["〚系统〛⟦铜钱⟧加一"]


def test_a_character_of_many_code_points_is_marked_and_cut_whole() -> None:
    text = "👩🏽‍🚒" * 30 + "铜钱" + "e\u0301" * 30
    (one,) = found(text, "铜钱")
    assert one == "👩🏽‍🚒" * CONTEXT + "⟦铜钱⟧" + "e\u0301" * CONTEXT


PIECES = st.sampled_from(
    (
        "铜钱",
        "灯",
        "沈砚",
        "。",
        "\n",
        "雨夜渡口",
        "\u0301",
        "👩🏽‍🚒",
        "ＶＩＰ",
        OPEN,
        CLOSE,
        " \u0301",
        "，",
        "字" * 30,
    )
)


@given(st.lists(PIECES, max_size=60).map("".join), st.sampled_from(["铜钱", "沈砚的铜钱", "vip灯", "雨夜渡口的灯"]))
@settings(max_examples=300, deadline=None)
def test_any_highlight_is_a_part_of_the_text_between_characters(text: str, query: str) -> None:
    shown = text.translate({ord(OPEN): "〚", ord(CLOSE): "〛"})
    borders = {0}
    for character in graphemes(shown):
        borders.add(max(borders) + len(character))
    found_ones = found(text, query)
    assert len(found_ones) <= MOST
    for one in found_ones:
        assert one.count(OPEN) == one.count(CLOSE) >= 1
        assert all(part.count(CLOSE) == 1 for part in one.split(OPEN)[1:])
        places = [at for at in range(len(shown)) if shown.startswith(plain(one), at)]
        assert any({at, at + len(plain(one))} <= borders for at in places)
        assert one.encode()


@pytest.mark.parametrize("most", [1, 2, 3])
def test_at_most_so_many_are_shown_and_none_overlap(most: int) -> None:
    text = ("沈砚提着灯。" + "雨" * (SPAN + 2 * CONTEXT)) * 6
    shown = highlights(text, {"沈砚": 1.0}, most)
    assert len(shown) == most


def test_highlights_that_would_overlap_are_joined() -> None:
    text = "沈砚" + "雨" * SPAN + "铜钱" + "雨" * 10 + "老艄公"
    assert len(found(text, "沈砚铜钱老艄公")) < 3
    assert "".join(found(text, "沈砚铜钱老艄公")).count(OPEN) == 3


def test_every_match_inside_a_highlight_is_marked_also_behind_what_it_was_chosen_for() -> None:
    text = "铜钱" + "雨" * (SPAN - 4) + "沈砚" + "雨" * 10 + "银子"
    (one,) = highlights(text, {"铜钱": 2.0, "沈砚": 2.0, "银子": 1.0}, most=1)
    assert one == "⟦铜钱⟧" + "雨" * (SPAN - 4) + "⟦沈砚⟧" + "雨" * 10 + "⟦银子⟧"


@given(st.text(st.sampled_from("雨灯臺Ａa1。…“”ﬁİßé\u0301\u3099か\U0001f409\u200d\r\n") | st.characters(codec="utf-8")))
@settings(max_examples=400)
def test_text_that_is_folded_as_a_whole_points_where_it_does_character_by_character(text: str) -> None:
    expected: list[tuple[str, int, int]] = []
    at = 0
    for one in graphemes(text):
        expected += [(changed, at, at + len(one)) for changed in fold(one)]
        at += len(one)
    made = Folded(text)
    assert list(zip(made.text, made.starts, made.ends, strict=True)) == expected
