from __future__ import annotations

import pytest

from services.llm.model import ToolCall, Turn
from services.llm.offline.shaped.material import gather, wanted_number
from tests.llm.offline.samples import NIGHT_RAIN


def message(*texts: tuple[str, str], task: str = "写") -> Turn:
    given = "\n\n".join(f'<资料 名称="{name}">\n{text}\n</资料>' for name, text in texts)
    return Turn("user", f"{given}\n\n<任务>\n{task}\n</任务>")


@pytest.mark.parametrize(
    ("task", "number"),
    [
        ("排出接下来五章的大纲", 5),
        ("排十二个章节", 12),
        ("要 8 章", 8),
        ("改第五章", None),
        ("改第五章，再排三章", 3),
        ("写一段", None),
        ("写", None),
    ],
)
def test_how_many_are_asked_for(task: str, number: int | None) -> None:
    assert wanted_number(task, "章") == number


def test_the_story_is_what_tells_one_and_sheets_are_kept_apart() -> None:
    found = gather((message(("人物", "许七：渡口的管事。"), ("前文", "沈砚说：“走。”雨停了。")),))
    assert found.story == "沈砚说：“走。”雨停了。"
    assert found.sheets == {"许七": "渡口的管事。"}
    assert [(one.name, one.count) for one in found.people] == [("沈砚", 1), ("许七", 0)]


def test_without_a_story_the_sheets_are_it_and_without_those_the_task() -> None:
    assert gather((message(("人物", "许七：管事。")),)).story == "许七：管事。"
    bare = gather((message(task="写一场雨。"),))
    assert (bare.story, bare.is_given) == ("写一场雨。", False)
    assert gather((Turn("user", "写一场雨。"),)).story == "写一场雨。"
    assert gather(()).story == ""


def test_headings_are_no_sentences() -> None:
    found = gather((message(("前文", NIGHT_RAIN)),))
    assert found.sentences[0] == "雨下了整整一夜。"
    assert [one.title for one in found.chapters] == ["夜雨"]


def test_pieces_hold_every_sentence_once_and_in_order() -> None:
    found = gather((message(("前文", NIGHT_RAIN)),))
    for wanted in (1, 2, 3, 7, 1000):
        pieces = found.pieces(wanted)
        assert tuple(one for piece in pieces for one in piece.sentences) == found.sentences
        assert len(pieces) == min(wanted, len(found.sentences))
        assert all(piece.sentences[0] == found.sentences[piece.first - 1] for piece in pieces)
    assert [piece.sentences for piece in gather(()).pieces(3)] == [()]


def test_tools_that_were_called_are_named_once() -> None:
    called = Turn("assistant", "", (ToolCall("1", "a", "{}"), ToolCall("2", "a", "{}"), ToolCall("3", "b", "{}")))
    assert "调用过a、b。" in gather((message(("前文", "雨。")), called)).label
