"""Which JSON is wanted, and that it is gone on with where it was begun. The answers themselves: tests/agent/test_offline.py."""

from __future__ import annotations

import json

import pytest

from services.agent.library import open_library
from services.llm.model import LENGTH, STOP, Delta, Prompt, Turn
from services.llm.offline.model import OfflineModel
from services.llm.offline.shaped.wanted import writer_for
from tests.llm.offline.samples import NIGHT_RAIN

LIBRARY = open_library()
ASKED = Turn("user", f'<资料 名称="前文">\n{NIGHT_RAIN}\n</资料>\n\n<任务>\n排三章。\n</任务>')


def system(agent: str) -> Turn:
    found = LIBRARY.find(agent)
    assert found is not None
    return Turn("system", f"{found.prompt}\n\n{found.shape_prompt}")


async def ask(prompt: Prompt) -> tuple[str, Delta]:
    deltas = [delta async for delta in OfflineModel(0, 0).stream(prompt)]
    return "".join(delta.text for delta in deltas), deltas[-1]


@pytest.mark.parametrize(
    ("agent", "writer"),
    [("outline", "outline"), ("character", "characters"), ("plot", "plot"), ("review", "review"), ("creative", None)],
)
def test_the_example_in_the_shipped_prompt_says_which(agent: str, writer: str | None) -> None:
    found = writer_for((system(agent), ASKED))
    assert (found.__name__ if found else None) == writer


@pytest.mark.parametrize(
    "said",
    [
        "请用 JSON 回答。",
        '```json\n{"score": 1, "verdict": "可用"}\n```',
        '```json\n[{"conflict": "", "beats": []}]\n```',
        '```json\n{"characters": [\n```',
        '```yaml\n{"characters": []}\n```',
    ],
)
def test_what_shows_none_of_the_four_asks_for_a_text(said: str) -> None:
    assert writer_for((Turn("system", said), ASKED)) is None


def test_what_a_user_shows_is_no_shape() -> None:
    assert writer_for((Turn("user", '```json\n{"characters": []}\n```'),)) is None


async def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    turns = (system("outline"), ASKED)
    whole, last = await ask(Prompt(turns))
    assert last.finish == STOP
    rest, _ = await ask(Prompt((*turns, Turn("assistant", whole[:40]))))
    assert whole[:40] + rest == whole
    assert json.loads(whole)["chapters"]


async def test_a_request_to_put_it_right_is_about_the_same_texts() -> None:
    turns = (system("outline"), ASKED)
    whole, _ = await ask(Prompt(turns))
    again, _ = await ask(Prompt((*turns, Turn("assistant", "{"), Turn("user", "请重新给出完整的 JSON 对象。"))))
    assert again == whole


async def test_a_limit_that_nothing_fits_in_cuts_the_answer() -> None:
    said, last = await ask(Prompt((system("outline"), ASKED), max_tokens=20))
    assert last.finish == LENGTH
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(said)
