from __future__ import annotations

import pytest

from services.text.names import Name, chinese_names, english_names
from tests.llm.offline.samples import EMPTY_BOX, NIGHT_RAIN, SWORD_TRIAL


def named(text: str) -> set[str]:
    return {name.text for name in chinese_names(text)}


def test_the_people_of_a_chapter_are_found_and_counted() -> None:
    assert chinese_names(NIGHT_RAIN) == [Name("顾长风", 4), Name("林晚秋", 3)]


def test_a_surname_of_two_characters_belongs_to_the_name() -> None:
    assert chinese_names(SWORD_TRIAL) == [Name("沈砚", 3), Name("欧阳烈", 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“走吧。”林远说。", {"林远"}),
        ("苏晚晴冷笑一声：“凭你？”", {"苏晚晴"}),
        ("少年名叫陈一鸣，今年十六。", {"陈一鸣"}),
        ("主角：许安然，性格温和。", {"许安然"}),
        ("阿月低声道：“别出声。”", {"阿月"}),
        ("葉青雲問道：「何事？」", {"葉青雲"}),
    ],
)
def test_somebody_who_speaks_or_is_introduced_is_believed_at_first_sight(text: str, expected: set[str]) -> None:
    assert named(text) == expected


def test_two_names_side_by_side_vouch_for_each_other() -> None:
    assert named("写一段林晚秋与顾长风在雨夜重逢的戏") == {"林晚秋", "顾长风"}


def test_somebody_who_is_only_mentioned_must_be_seen_twice() -> None:
    assert named("他想起了秦无双的剑。") == set()
    assert named("他想起了秦无双的剑。后来，秦无双也死了。") == {"秦无双"}


def test_the_verb_behind_a_name_is_not_part_of_it() -> None:
    assert named("林远看着她。林远推开门，林远站住了。林远道：“是你。”") == {"林远"}


def test_the_longer_name_wins_where_it_always_stands() -> None:
    assert named("李知微抬头。李知微又低下头去。“好。”李知微应了一声。") == {"李知微"}


@pytest.mark.parametrize(
    "text",
    [
        "他高兴地说，马上就走。方向对了，方才的路错了。",
        "黄昏时分，江湖上风平浪静。江湖的事，江湖了。",
        "他高声道：“石头！”又冷声道：“马车！”",
        "白天过去了，白天又来了，白天的光很亮。",
        "任何人都明白，任何事都有因果。",
        "温柔的风，温柔的夜，温柔地吹。",
        "她问：“谁？”",
        "",
    ],
)
def test_ordinary_words_that_begin_like_a_name_are_not_names(text: str) -> None:
    assert named(text) == set()


def test_a_name_inside_a_longer_one_is_not_counted_twice() -> None:
    text = "There was Anna Gray. Then Anna spoke, and Gray left, and Anna Gray stayed, and Anna wept."
    assert english_names(text) == [Name("Anna Gray", 2), Name("Anna", 2), Name("Gray", 1)]


def test_english_names_are_capitalised_inside_a_sentence() -> None:
    assert english_names(EMPTY_BOX) == [Name("Anna", 2), Name("Tom Gray", 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rain fell. Nobody came. Then it was May.", []),
        ("I saw that Anna saw Annabel, and Anna left.", [Name("Anna", 2), Name("Annabel", 1)]),
        ('"Where is Mr. Gray?" he asked.', [Name("Mr. Gray", 1)]),
        ('"Hold it," Mara said.', [Name("Mara", 1)]),  # the sentence goes on behind the comma
        ("Idris Kane laughed. She saw Idris.", [Name("Idris Kane", 1), Name("Idris", 1)]),
        ("He met Anna-Maria on Monday.", [Name("Anna-Maria", 1)]),
        ("THE END OF IT ALL", []),
    ],
)
def test_a_capital_that_the_sentence_demands_is_no_name(text: str, expected: list[Name]) -> None:
    assert english_names(text) == expected
