from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.people import people, positions
from tests.tool.story import CITY, IMMORTALS, STORY


def groups(text: str) -> list[set[str]]:
    return [{form.text for form in one.forms} for one in people(text)]


def forms(text: str) -> set[str]:
    return set().union(*groups(text))


def test_people_of_a_story_are_found_with_all_their_names() -> None:
    found = {one.name: {form.text: form.count for form in one.forms} for one in people(STORY)}
    assert found == {
        "沈怀安": {"沈怀安": 4, "沈大夫": 3, "怀安": 3},
        "顾长亭": {"顾长亭": 2, "长亭": 1, "顾先生": 1},
        "柳青萝": {"柳青萝": 3, "青萝": 1, "柳姑娘": 1},
    }


def test_those_mentioned_most_often_come_first_with_their_first_place() -> None:
    found = people(STORY)
    assert [one.name for one in found] == ["沈怀安", "柳青萝", "顾长亭"]
    assert [one.first for one in found] == [STORY.index("沈怀安"), STORY.index("柳青萝"), STORY.index("长亭")]


def test_people_of_a_city() -> None:
    assert groups(CITY) == [{"程小满", "小满"}, {"何以宁"}, {"方总"}, {"苏棠", "苏律师"}, {"白经理"}]


def test_immortals() -> None:
    assert groups(IMMORTALS) == [
        {"厉无咎", "厉道友"},
        {"楚灵儿", "楚丫头"},
        {"陆沉舟"},
        {"寒月仙子"},
        {"清虚真人"},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他有一子，名唤云哥儿。", {"云哥儿"}),
        ("此人姓周名远，表字子衡。", {"子衡"}),
        ("长子名叫陆明，次子名叫陆朗。", {"陆明", "陆朗"}),
        ("表兄韩松来了。", {"韩松"}),
        ("席上有沈砚、陆明、苏晚、韩松，都醉了。", {"沈砚", "陆明", "苏晚", "韩松"}),
        ("屋里只剩下沈砚、绿珠、小荷三个丫鬟。", {"沈砚", "绿珠", "小荷"}),
        ("邢夫人来了。", {"邢夫人"}),
        ("那是冲虚真人，也是渺渺真人的师兄。", {"冲虚真人", "渺渺真人"}),
        ("阿蘅道：“走。”阿蘅笑道：“来。”", {"阿蘅"}),
    ],
)
def test_evidence_for_a_name(text: str, expected: set[str]) -> None:
    assert forms(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "众人道：“好！”众人笑道：“好！”",
        "母亲道：“回来。”母亲又道：“回来。”",
        "他名落孙山，名声大噪，名列前茅。",
        "高兴的人高声说话，方才的事方便再提。",
        "王府门前，老爷笑道：“请。”老爷又笑道：“坐。”",
        "那道人道：“去罢。”跛足道人笑了。",
        "春、夏、秋、冬，四季都有花。",
        "油盐、酱醋、茶叶、米面都买了。",
        "No Chinese here. Anna said so.",
        "",
    ],
)
def test_what_is_nobody(text: str) -> None:
    assert forms(text) == set()


def test_title_that_fits_two_people_stays_alone() -> None:
    text = "沈砚道：“走。”沈砚又道：“来。”沈舟道：“走。”沈舟又道：“来。”沈公子来了，沈公子坐下。"
    assert {"沈公子"} in groups(text)


def test_title_of_a_woman_is_hers() -> None:
    text = "林如山道：“走。”林如山又道：“来。”林黛云道：“走。”林黛云又道：“来。”“林姑娘，请。”"
    assert {"林姑娘", "林黛云"} in [one - {"黛云"} for one in groups(text)]


def test_wife_of_somebody_is_not_he() -> None:
    text = "陆琏道：“走。”陆琏又道：“来。”，琏二爷笑了。琏二嫂子也笑了。"
    assert groups(text)[0] == {"陆琏", "琏二爷"}
    assert {"琏二嫂子"} in groups(text)


def test_longer_form_hides_the_shorter_one() -> None:
    assert positions("林黛云，黛云，林黛云", ["黛云", "林黛云"]) == {"林黛云": [0, 7], "黛云": [4]}
    assert positions("雪", []) == {}


def test_answer_does_not_depend_on_the_hash_seed() -> None:
    code = "from services.text.people import people; from tests.tool.story import STORY; print(people(STORY))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


CHARACTERS = "沈砚苏晚道笑说“”，。、的名叫姑娘老爷大二哥真人长子\n"


@given(st.text(CHARACTERS, max_size=80))
def test_positions_index_the_text_and_do_not_overlap(text: str) -> None:
    taken: set[int] = set()
    for one in people(text):
        assert one.count == sum(form.count for form in one.forms)
        for form in one.forms:
            assert form.count == len(form.positions) > 0
            for at in form.positions:
                assert text.startswith(form.text, at)
                places = set(range(at, at + len(form.text)))
                assert not places & taken
                taken |= places


MODERN = """林萧抬起头，看见苏沐雪站在门口。“林萧，你怎么还在这里？”苏沐雪皱眉道。林萧没有说话。
“小雪，别管他了。”叶凡走来，拍了拍苏沐雪的肩膀。“萧哥！”胖子王大锤喊道，“快跑！”欧阳锋的灵蛇已经缠了上来。诸葛青云摇着扇子。
慕容复冷笑一声。司马昭之心，路人皆知。阿宁问道：“老赵，你来不来？”"""


def test_people_of_a_modern_passage_who_are_named_once() -> None:
    names = {person.name for person in people(MODERN)}
    assert {"王大锤", "欧阳锋", "诸葛青云", "慕容复", "司马昭", "小雪", "阿宁", "老赵"} <= names


def test_what_only_looks_like_a_familiar_name_or_a_rare_surname_is_none() -> None:
    ordinary = (
        "“小心！”“老爷，有客。”“阿姨，早。”“老天，怎么会！”“小姐，请。”小声道：“嘘。”"
        "司空见惯的事。东方的天亮了。百里的路。上官的命令。"
    )
    assert people(ordinary) == []
