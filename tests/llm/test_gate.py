from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from qingyu_ai.settings import Llm, Settings, SettingsError
from services.llm.faults import UpstreamFault
from services.llm.gate import NewGate, guarded
from services.llm.meters import Meters
from services.llm.model import FILTERED, STOP, Delta, Prompt
from services.llm.offer import open_offer
from services.llm.words import WordList, word_gate
from tests.upstream.replies import chat, opening
from tests.upstream.script import Cut, Endless, Pause, Text
from tests.waiting import eventually

from .conftest import ASKED, Lab


async def through(lab: Lab, new_gate: NewGate | None, prompt: Prompt = ASKED) -> list[Delta]:
    async with aclosing(guarded(lab.remote("m").stream(prompt), prompt, new_gate)) as deltas:
        return [delta async for delta in deltas]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
async def test_word_is_masked_wherever_the_deltas_split_it(lab: Lab, size: int) -> None:
    lab.upstream.script("m", chat("此处有违禁词，也有违禁。", size=size, reasoning="想到违禁词"))
    deltas = await through(lab, word_gate(WordList(["违禁词"]), "mask"))
    assert text(deltas) == "此处有***，也有违禁。"
    assert "".join(delta.reasoning for delta in deltas) == "想到***"
    assert deltas[-1].finish == STOP
    assert deltas[-1].usage is not None


async def test_stopped_answer_ends_before_the_word_and_its_model_is_closed(lab: Lab) -> None:
    lab.upstream.script("m", opening("此处有违禁词，", Endless(Text("不该出现"), every=0.01)))
    deltas = await through(lab, word_gate(WordList(["违禁词"]), "stop"))
    assert (text(deltas), deltas[-1].finish) == ("此处有", FILTERED)
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.estimated
    await eventually(lambda: lab.upstream.seen()[0].ended == "client_closed")


async def test_word_in_a_thought_ends_the_answer_and_the_thought_stays_one(lab: Lab) -> None:
    lab.upstream.script("m", chat("好。", reasoning="我想到违禁词了"))
    deltas = await through(lab, word_gate(WordList(["违禁词"]), "stop"))
    assert (text(deltas), deltas[-1].finish) == ("", FILTERED)
    assert "".join(delta.reasoning for delta in deltas) == "我想到"


async def test_what_was_held_back_is_kept_when_the_stream_fails(lab: Lab) -> None:
    lab.upstream.script("m", opening("此处有违禁", Pause(0.05), Cut("rst")))
    deltas: list[Delta] = []

    async def read() -> None:
        async with aclosing(
            guarded(lab.remote("m").stream(ASKED), ASKED, word_gate(WordList(["违禁词"]), "mask"))
        ) as said:
            async for delta in said:
                deltas.append(delta)

    with pytest.raises(UpstreamFault):
        await read()
    assert text(deltas) == "此处有违禁"


async def test_without_a_list_everything_passes(lab: Lab) -> None:
    lab.upstream.script("m", chat("此处有违禁词。"))
    assert text(await through(lab, word_gate(WordList([]), "mask"))) == "此处有违禁词。"


async def test_list_comes_from_the_settings_and_is_off_by_default(tmp_path: Path) -> None:
    assert open_offer(Settings(), Meters(registry())).new_gate is None
    path = tmp_path / "words.txt"
    path.write_text("违禁词\n", encoding="utf-8")
    assert open_offer(Settings(llm=Llm(words_file=path)), Meters(registry())).new_gate is not None
    with pytest.raises(SettingsError, match="QINGYU_LLM__WORDS_FILE"):
        open_offer(Settings(llm=Llm(words_file=tmp_path / "none.txt")), Meters(registry()))


def registry() -> CollectorRegistry:
    return CollectorRegistry()
