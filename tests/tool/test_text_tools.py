from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.counting import count
from services.tool.builtin import TOOLS
from services.tool.builtin.character_names import CharacterNamesParameters, character_names
from services.tool.builtin.common import LONGEST_TEXT
from services.tool.builtin.repeated_phrases import RepeatedPhrasesParameters, repeated_phrases
from services.tool.builtin.split_chapters import SplitChaptersParameters, split_chapters
from services.tool.builtin.text_statistics import TextStatistics, TextStatisticsParameters, text_statistics
from services.tool.errors import InvalidParameters, ToolFailed
from services.tool.sandbox import Sandbox
from tests.tool.story import STORY

texts = st.text("雪山，。！？…—“”「」ab1 \n'😀", max_size=60)


def statistics(text: str) -> TextStatistics:
    return text_statistics(TextStatisticsParameters(text=text))


@pytest.mark.parametrize(
    ("text", "zi", "without", "sentences", "paragraphs"),
    [
        ("", 0, 0, 0, 0),
        ("雪停了。", 4, 3, 1, 1),
        ("雪停了，iPhone 15 也没电了。", 11, 9, 1, 1),
        ("“走吧。”他说。", 8, 4, 2, 1),
        ("“走吧”，他说。", 8, 4, 1, 1),
        ("他等了很久……才走。", 10, 7, 1, 1),
        ("他等了很久……", 7, 5, 1, 1),
        ("他——我的师父——走了！？", 13, 7, 1, 1),
        ("一。\n\n　　二。\n", 4, 2, 2, 2),
        ("……\n", 2, 0, 0, 1),
    ],
)
def test_counting_rules(text: str, zi: int, without: int, sentences: int, paragraphs: int) -> None:
    told = statistics(text)
    assert (told.zi, told.zi_without_punctuation, told.sentences, told.paragraphs) == (
        zi,
        without,
        sentences,
        paragraphs,
    )


def test_dialogue_share() -> None:
    told = statistics("“走吧。”他说。")
    assert (told.dialogues, told.dialogue_zi, told.dialogue_share) == (1, 3, 0.375)
    assert statistics("他走了。").dialogue_share == 0.0
    assert statistics("").dialogue_share == 0.0


def test_average_sentence() -> None:
    told = statistics("雪停了。他推开门，走了出去。")
    assert told.average_sentence_zi == 5.5
    assert told.longest_sentence_zi == 8


@given(texts)
def test_counts_add_up(text: str) -> None:
    told = statistics(text)
    assert told.zi == told.han_characters + told.words + told.punctuation
    assert told.zi_without_punctuation == told.zi - told.punctuation
    assert told.zi <= told.characters_without_blanks <= told.characters == len(text)
    assert 0 <= told.dialogue_zi <= told.zi or "'" in text  # an apostrophe joins words that a quotation cuts
    assert told.longest_sentence_zi >= told.average_sentence_zi
    assert told.sentences <= told.zi_without_punctuation


@given(texts, texts)
def test_lines_are_counted_one_by_one(first: str, second: str) -> None:
    both = statistics(f"{first}\n{second}")
    one, other = statistics(first), statistics(second)
    assert both.zi == one.zi + other.zi
    assert both.paragraphs == one.paragraphs + other.paragraphs
    assert both.dialogue_zi == one.dialogue_zi + other.dialogue_zi


def test_chapters_of_a_story() -> None:
    told = split_chapters(SplitChaptersParameters(text=STORY))
    assert [(one.kind, one.number) for one in told.chapters] == [
        ("prologue", None),
        ("chapter", 1),
        ("chapter", 2),
        ("epilogue", None),
    ]
    assert [one.zi for one in told.chapters] == [count(STORY[one.body_start : one.end]).zi for one in told.chapters]
    assert told.problems == []


def test_problems_with_numbers_are_told_in_chinese() -> None:
    told = split_chapters(SplitChaptersParameters(text="第一章\n第五章\n第五章\n第三章\n第七章\n"))
    assert [(one.kind, one.message) for one in told.problems] == [
        ("gap", "缺少第 2 至 4 章"),
        ("duplicate", "第 5 章重复"),
        ("backward", "第 3 章次序倒退"),
        ("gap", "缺少第 6 章"),
    ]


def test_too_many_headings_are_refused() -> None:
    with pytest.raises(ToolFailed, match="2001 headings"):
        split_chapters(SplitChaptersParameters(text="第一章\n" * 2001))


def test_names_of_a_story_with_their_paragraphs() -> None:
    told = character_names(CharacterNamesParameters(text=STORY))
    assert told.total == 3
    first = told.characters[0]
    assert (first.name, first.count, first.first) == ("沈怀安", 10, STORY.index("沈怀安"))
    assert [(form.text, form.count) for form in first.forms] == [("沈怀安", 4), ("沈大夫", 3), ("怀安", 3)]
    paragraphs = [line for line in STORY.splitlines() if line.strip()]
    assert [paragraphs[number - 1] for number in first.paragraphs] == [
        line for line in paragraphs if "怀安" in line or "沈大夫" in line
    ]
    assert character_names(CharacterNamesParameters(text=STORY, at_least=5)).total == 2


def test_repeated_phrases_of_a_text() -> None:
    text = "窗外大雪纷飞。沈怀安笑道：“走。”沈怀安笑道：“来。”他又看见窗外大雪纷飞，也没有什么，也没有什么。"
    told = repeated_phrases(RepeatedPhrasesParameters(text=text))
    assert told.total == 1
    [phrase] = told.phrases
    assert (phrase.text, phrase.count, phrase.is_part) == ("窗外大雪纷飞", 2, False)
    assert phrase.positions == [0, text.rindex("窗外")]
    assert phrase.closest == text.rindex("窗外")


def test_words_to_ignore_are_no_content() -> None:
    text = "白鹿渡口的雪，白鹿渡口的雪。"
    assert repeated_phrases(RepeatedPhrasesParameters(text=text)).total == 1
    assert repeated_phrases(RepeatedPhrasesParameters(text=text, ignore=["白鹿渡口"])).total == 0


def test_limit_of_phrases() -> None:
    text = "大雪纷飞，青山白首，大雪纷飞，青山白首。"
    told = repeated_phrases(RepeatedPhrasesParameters(text=text, limit=1))
    assert (told.total, len(told.phrases)) == (2, 1)


def test_lengths_must_be_in_order() -> None:
    with pytest.raises(InvalidParameters, match="min_length must not be above max_length") as caught:
        repeated_phrases.read('{"text": "", "min_length": 9, "max_length": 8}')
    assert "min_length 不能大于 max_length" in caught.value.chinese


@pytest.mark.parametrize("tool", [one for one in TOOLS if "text" in one.schema["properties"]], ids=lambda one: one.name)
def test_text_beyond_the_limit_is_refused(tool: object) -> None:
    [found] = [one for one in TOOLS if one is tool]
    found.read(json.dumps({"text": "雪" * LONGEST_TEXT}))
    with pytest.raises(InvalidParameters, match="text has a length of 200001"):
        found.read(json.dumps({"text": "雪" * (LONGEST_TEXT + 1)}))


def test_every_tool_describes_itself_in_chinese() -> None:
    assert [one.name for one in TOOLS] == sorted(one.name for one in TOOLS)
    for one in TOOLS:
        assert one.is_computed == (one.name != "search_knowledge")
        assert any("\u4e00" <= char <= "\u9fff" for char in one.description)
        assert len(one.description) < 400
        for parameter in one.parameters:
            assert any("\u4e00" <= char <= "\u9fff" for char in parameter.description)


@pytest.mark.parametrize(
    ("name", "parameters", "key"),
    [
        ("calculate", {"expression": "1+1"}, "value"),
        ("character_names", {"text": STORY}, "characters"),
        ("date_arithmetic", {"operation": "difference", "date": "2024-01-01", "other": "2024年3月1日"}, "between"),
        ("repeated_phrases", {"text": STORY}, "phrases"),
        ("sensitive_words", {"text": STORY, "words": ["药铺"]}, "hits"),
        ("split_chapters", {"text": STORY}, "chapters"),
        ("text_statistics", {"text": STORY}, "zi"),
    ],
)
async def test_every_tool_runs_in_the_sandbox(name: str, parameters: dict[str, str], key: str) -> None:
    """With everything taken away from the child, nothing may want to be imported or read at the first call."""
    tool = next(one for one in TOOLS if one.name == name)
    text = json.dumps(parameters)
    async with Sandbox(TOOLS, children=1) as sandbox:
        said = await sandbox.run(tool, text)
        assert json.loads(said)[key]
        assert said == tool.encode(tool(tool.read(text)))
