"""The four agents that write JSON, with the offline model: the real loop, the shipped prompts, the real check of the shape."""

from __future__ import annotations

from typing import Any

import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import AGENT_TYPES
from services.agent.library import Agent, Library
from services.agent.service import AgentService
from services.agent.shapes import SHAPES, Characters, Outline, Plot, Review, Shape
from services.llm.offer import Offer
from services.llm.offline.chinese import LABEL
from services.llm.offline.model import OfflineModel
from tests.llm.offline.samples import EMPTY_BOX, NIGHT_RAIN, SWORD_TRIAL

from .golden_requests import SHEET
from .scripted import LIBRARY, Box, Lab, kinds, new_call, request, text_of

WITH_JSON = ("outline", "character", "plot", "review")


def asked(agent: str, text: str, task: str = "按要求写。", **more: Any) -> ai.AgentRequest:
    return request(agent, task, context={"format": "json", "正文": text}, **more)


def agent_named(name: str) -> Agent:
    found = LIBRARY.find(name)
    assert found is not None
    return found


async def answer(agent: str, text: str, task: str = "按要求写。", **more: Any) -> Any:
    """An answer that held without being put right, as its shape."""
    given = await Lab(OfflineModel(0, 0), Box().with_tool("character_names")).ask(asked(agent, text, task, **more))
    assert (given.status, given.response_status.code) == ("completed", 0), given.response_status.message
    assert given.metadata.extra.get("repaired", "") == ""
    return agent_named(agent).shape.model_validate_json(given.output)  # type: ignore[union-attr]  # all of these have one


def texts_in(value: Any) -> list[str]:
    """All texts of an answer."""
    if isinstance(value, Shape):
        value = value.model_dump()
    if isinstance(value, dict):
        value = list(value.values())
    return [text for one in value for text in texts_in(one)] if isinstance(value, list | tuple) else [str(value)]


def test_these_are_all_agents_that_write_json() -> None:
    assert tuple(name for name in AGENT_TYPES if agent_named(name).shape) == WITH_JSON
    assert {agent_named(name).shape for name in WITH_JSON} == set(SHAPES.values())


@pytest.mark.parametrize("agent", WITH_JSON)
@pytest.mark.parametrize("text", [NIGHT_RAIN, SWORD_TRIAL, EMPTY_BOX, "字", "……", "<b>", '“"', "", "😀" * 3])
async def test_every_agent_answers_in_its_shape_whatever_the_text_and_says_that_it_is_a_demonstration(
    agent: str, text: str
) -> None:
    held = await answer(agent, text)
    assert any(one.startswith(LABEL) for one in texts_in(held))


@pytest.mark.parametrize("agent", WITH_JSON)
async def test_another_text_gets_another_answer_and_the_same_text_the_same(agent: str) -> None:
    first = await answer(agent, NIGHT_RAIN)
    assert await answer(agent, NIGHT_RAIN) == first
    second = await answer(agent, SWORD_TRIAL)
    assert len(set(texts_in(first)) - set(texts_in(second))) > 1


async def test_an_outline_has_the_headings_of_the_text_or_as_many_parts_as_the_task_asks_for() -> None:
    text = "第三章 夜雨\n\n林晚秋推开窗。\n\n第四章 木匣\n\n顾长风说：“我回来了。”门开了。\n\n第六章 雁门\n"
    held: Outline = await answer("outline", text)
    assert [(one.number, one.title) for one in held.chapters] == [(3, "夜雨"), (4, "木匣"), (6, "雁门")]
    assert held.chapters[1].hook == "收在“门开了。”"
    parts: Outline = await answer("outline", SWORD_TRIAL, "把《断剑》排成四章的大纲，第九章不动。")
    assert [one.number for one in parts.chapters] == [1, 2, 3, 4]
    assert parts.title == "断剑"
    assert "提到沈砚（1次）" in parts.chapters[0].summary


async def test_sheets_are_those_of_the_people_in_the_text_with_their_own_words() -> None:
    held: Characters = await answer("character", NIGHT_RAIN)
    assert [one.name for one in held.characters] == ["顾长风", "林晚秋"]
    assert held.characters[0].role == "主角"
    assert "全文提到4次" in held.characters[0].personality[0]
    assert held.characters[1].voice == "名字后面的引语，第一处是“不带着他的骨灰，就不要回来。”"
    assert all(one.appearance.startswith(LABEL) for one in held.characters)


async def test_what_a_sheet_of_characters_says_is_taken_from_it() -> None:
    given = request(
        "character", "补全。", context={"format": "json", "人物": SHEET, "前文": "“船钱呢？”许七没有抬头。"}
    )
    held = Characters.model_validate_json((await Lab(OfflineModel(0, 0)).ask(given)).output)
    by_name = {one.name: one for one in held.characters}
    assert "“船夫之子，左手缺一截小指，听不得别人提父亲。”" in by_name["沈舟"].appearance
    assert by_name["沈舟"].weakness.startswith("含“听不得”的一句")


async def test_a_plot_follows_the_sentences_and_names_who_is_there() -> None:
    held: Plot = await answer("plot", SWORD_TRIAL, "拆成3步。")
    assert [beat.order for beat in held.beats] == [1, 2, 3]
    assert held.beats[0].event == "第1至4句：“试剑台上风很大。”"
    assert held.beats[1].cause == f"接第1步的末句：{held.beats[0].result}"
    assert held.beats[0].characters == ("沈砚",)
    assert max(beat.tension for beat in held.beats) == 5
    clues: Plot = await answer("plot", NIGHT_RAIN)
    assert clues.foreshadowing[0].clue == "“雨声还在”"
    one_step: Plot = await answer("plot", NIGHT_RAIN, "拆成1步。")
    assert one_step.foreshadowing == ()  # it comes again, but within the step


async def test_a_review_finds_what_was_planted_quotes_it_and_takes_off_for_it() -> None:
    long = "他" + "走过那条长长的街" * 8 + "。"
    bad = f"第一章 起\n\n他在门外,站着。{long}\n\n第三章 落\n\n门开了。"
    held: Review = await answer("review", bad)
    found = {(one.severity, one.kind) for one in held.issues}
    assert {("严重", "逻辑"), ("轻微", "错别字"), ("一般", "节奏")} <= found
    assert all(one.quote in bad for one in held.issues)
    assert any(one.quote.startswith("他在门外,站着") for one in held.issues)
    good: Review = await answer("review", "门开了。雨停了。")
    assert (good.score, good.verdict, good.issues) == (100, "可用", ())
    assert held.score < good.score


async def test_a_review_without_a_manuscript_says_so() -> None:
    given = await Lab(OfflineModel(0, 0)).ask(request("review", "通审。", context={"format": "json"}))
    held = Review.model_validate_json(given.output)
    assert (held.score, [one.problem for one in held.issues]) == (0, ["这次没有附原稿，只有任务。"])


async def test_tools_come_before_the_json_and_are_named_in_it() -> None:
    lab = Lab(OfflineModel(0, 0), Box().with_tool("character_names"))
    chunks = await lab.stream(asked("character", NIGHT_RAIN, tools=["character_names"]))
    assert kinds(chunks) == ["tool_start", "tool_end", "text", "final"]
    held = Characters.model_validate_json(text_of(chunks))
    assert "调用过character_names。" in held.characters[0].appearance


async def test_an_answer_with_little_room_has_fewer_entries() -> None:
    wide: Outline = await answer("outline", SWORD_TRIAL, "排十章。")
    narrow: Outline = await answer("outline", SWORD_TRIAL, "排十章。", options={"max_tokens": 500})
    assert len(wide.chapters) == 10
    assert 0 < len(narrow.chapters) < 10


async def test_a_shape_of_another_deployment_is_not_understood_and_the_answer_is_a_text() -> None:
    other = agent_named("outline").model_copy(update={"shape_prompt": '```json\n{"scenes": []}\n```'})
    model = OfflineModel(0, 0)
    service = AgentService(Offer({model.name: model}, model.name, None), Library({"outline": other}), Box())
    given = await service.execute(new_call(), asked("outline", NIGHT_RAIN))
    assert (given.status, given.response_status.details) == ("failed", "AGENT_SHAPE_NOT_HELD")
    assert given.output.startswith(LABEL)
