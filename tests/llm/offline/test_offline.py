from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from services.llm.graphemes import graphemes
from services.llm.model import Delta, Model, Prompt, Turn
from services.llm.offline import chinese, english
from services.llm.offline import model as offline
from services.llm.offline.model import LONG_PROMPT, OfflineModel
from services.llm.tokens import estimate_tokens

from .samples import EDITOR, EMPTY_BOX, NIGHT_RAIN, SWORD_TRIAL

FRAGMENTS = [
    NIGHT_RAIN,
    EMPTY_BOX,
    "林远说：“",
    "”",
    "……",
    "。",
    "？",
    " ",
    "\n",
    "雨",
    "Anna ",
    "a",
    ".",
    "1",
    "👨‍👩‍👧",
    "e\u0301",
    "\u0301",
    "\u202e",
]
texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.text(alphabet=st.characters(), max_size=60)
)
conversations = st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), texts), max_size=4).map(
    tuple
)


def prompt(*contents: str, max_tokens: int = 0) -> Prompt:
    return Prompt(tuple(Turn("user", content) for content in contents), max_tokens)


async def ask(asked: Prompt) -> list[Delta]:
    return [delta async for delta in OfflineModel(0, 0).stream(asked)]


def joined(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def answered(asked: Prompt) -> str:
    return joined(asyncio.run(ask(asked)))


class Time:
    """A clock that only sleep moves, and what the sleeper does to it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def model(self, first_delay_seconds: float, deltas_per_second: float) -> OfflineModel:
        return OfflineModel(first_delay_seconds, deltas_per_second, clock=self.clock, sleep=self.sleep)


def test_the_offline_model_is_a_model() -> None:
    model: Model = OfflineModel(0, 0)
    assert model.name == "offline"


# What a stream is.


async def test_only_the_last_delta_has_a_finish_and_an_estimated_usage() -> None:
    *deltas, last = await ask(Prompt((Turn("system", EDITOR), Turn("user", NIGHT_RAIN))))
    assert all(delta.text and not delta.finish and delta.usage is None for delta in deltas)
    assert last.finish == "stop"
    assert last.usage
    assert last.usage.estimated
    assert last.usage.prompt_tokens == estimate_tokens(EDITOR) + estimate_tokens(NIGHT_RAIN)
    assert last.usage.completion_tokens == estimate_tokens(joined(deltas))


@pytest.mark.parametrize(
    "sample", [NIGHT_RAIN, SWORD_TRIAL, "帮我写一个江湖小说的开头", "Write a scene in the rain.", "你好，请续写"]
)
async def test_a_normal_answer_has_enough_deltas_to_be_watched(sample: str) -> None:
    assert 60 <= len(await ask(prompt(sample))) <= 200


async def test_a_delta_is_one_to_four_characters_and_never_splits_one() -> None:
    deltas = await ask(prompt("👨‍👩‍👧👍🏽cafe\u0301🇨🇳" * 3))
    assert all(1 <= len(list(graphemes(delta.text))) <= 4 for delta in deltas[:-1])
    assert [one for delta in deltas for one in graphemes(delta.text)] == list(graphemes(joined(deltas)))
    assert "👨‍👩‍👧" in joined(deltas)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations)
def test_every_answer_says_that_it_is_a_demonstration(turns: tuple[Turn, ...]) -> None:
    # A prompt that ends in the assistant's words may be answered with the rest of an answer.
    assume(not turns or turns[-1].role != "assistant")
    assert answered(Prompt(turns)).startswith((chinese.LABEL, english.LABEL))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations, conversations)
def test_two_prompts_get_two_answers(one: tuple[Turn, ...], other: tuple[Turn, ...]) -> None:
    assume(one != other)
    assume(not any(turns and turns[-1].role == "assistant" for turns in (one, other)))
    assert answered(Prompt(one)) != answered(Prompt(other))


def test_a_change_in_the_middle_of_a_long_text_changes_the_answer() -> None:
    assert answered(prompt("雨" * 3000 + "夜" + "雨" * 3000)) != answered(prompt("雨" * 3001 + "夜" + "雨" * 2999))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations)
def test_the_same_prompt_gets_the_same_deltas(turns: tuple[Turn, ...]) -> None:
    assert asyncio.run(ask(Prompt(turns))) == asyncio.run(ask(Prompt(turns)))


def test_another_process_gives_the_same_answer() -> None:
    """Sets of strings are in another order in each process; a worker that takes over must not notice."""
    program = (
        "import asyncio; from tests.llm.offline.test_offline import *; "
        "crowd = ''.join(f'“好。”林{given}说。' for given in '一二三四五六七八九十甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉'); "
        "print(*(ascii(answered(prompt(text))) for text in (NIGHT_RAIN, SWORD_TRIAL, EMPTY_BOX, crowd)))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        for seed in ("1", "2")
    ]
    assert said[0].stdout == said[1].stdout != b""


# Where a stream is cut, and where it goes on.


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations, st.integers(1, 150))
def test_an_answer_has_at_most_the_tokens_that_were_allowed(turns: tuple[Turn, ...], max_tokens: int) -> None:
    whole = answered(Prompt(turns))
    deltas = asyncio.run(ask(Prompt(turns, max_tokens)))
    said, last = joined(deltas), deltas[-1]
    assert last.usage
    assert last.usage.completion_tokens == estimate_tokens(said) <= max_tokens
    assert whole.startswith(said)
    assert last.finish == ("stop" if said == whole else "length")


async def test_no_limit_is_the_models_own() -> None:
    assert (await ask(prompt("雨", max_tokens=0)))[-1].finish == "stop"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts, st.floats(0, 1))
def test_an_interrupted_answer_is_continued_where_it_stopped(text: str, part: float) -> None:
    *deltas, _ = asyncio.run(ask(prompt(text)))
    begun = joined(deltas[: round(part * len(deltas))])
    rest = asyncio.run(ask(Prompt((Turn("user", text), Turn("assistant", begun)))))
    assert begun + joined(rest) == joined(deltas)
    assert rest[-1].finish == "stop"


async def test_an_answer_of_another_model_is_followed_by_a_whole_one() -> None:
    said = joined(await ask(Prompt((Turn("user", "雨"), Turn("assistant", "从前有座山")))))
    assert said.startswith(chinese.LABEL)


# How fast it goes.


async def test_deltas_come_at_their_times_on_the_schedule() -> None:
    time_ = Time()
    due = []
    async for delta in time_.model(0.15, 50).stream(prompt(NIGHT_RAIN)):
        if delta.text:
            due.append(time_.now - 1000)
    assert due == pytest.approx([0.15 + n / 50 for n in range(len(due))])


async def test_a_slow_reader_does_not_shift_the_schedule() -> None:
    """After a pause, what is overdue comes at once, and the rest at its old times."""
    time_ = Time()
    due = []
    async for delta in time_.model(0.5, 10).stream(prompt(NIGHT_RAIN)):
        if delta.text:
            due.append(time_.now - 1000)
        if len(due) == 3:  # at 0.7; until 1.7, ten more are due
            time_.now += 0.25
    assert due[:3] == pytest.approx([0.5, 0.6, 0.7])
    assert due[3:6] == pytest.approx([0.95, 0.95, 1.0])
    assert due[-1] == pytest.approx(0.5 + (len(due) - 1) / 10)


async def test_without_a_pace_the_loop_still_gets_its_turns() -> None:
    time_ = Time()
    deltas = [delta async for delta in time_.model(0, 0).stream(prompt(NIGHT_RAIN))]
    assert time_.now == 1000
    assert len(time_.slept) >= len(deltas) // 32 >= 3


async def test_without_a_pace_the_first_delta_still_waits() -> None:
    time_ = Time()
    async for _ in time_.model(0.15, 0).stream(prompt("雨")):
        assert time_.now == pytest.approx(1000.15)


# How it stops.


async def test_closing_the_stream_ends_the_work() -> None:
    time_ = Time()
    async with aclosing(time_.model(0, 50).stream(prompt(NIGHT_RAIN))) as stream:
        assert (await anext(stream)).text
        assert (await anext(stream)).text
    slept = len(time_.slept)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert len(time_.slept) == slept == 2


async def test_cancelling_a_reader_that_waits_for_a_delta_ends_the_stream() -> None:
    waits = asyncio.Event()

    async def never(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    stream = OfflineModel(5, 1, sleep=never).stream(prompt("雨"))
    reader = asyncio.create_task(anext(stream))
    await waits.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_nothing_happens_before_the_first_delta_is_asked_for() -> None:
    time_ = Time()
    stream = time_.model(1, 1).stream(prompt("雨"))
    await asyncio.sleep(0)
    assert time_.slept == []
    await stream.aclose()


# What it does with much.


@pytest.mark.parametrize(("length", "in_thread"), [(LONG_PROMPT, False), (LONG_PROMPT + 1, True)])
async def test_only_a_long_prompt_leaves_the_loops_thread(
    length: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    real = offline._answer

    def seen(asked: Prompt) -> offline._Answer:
        threads.append(threading.current_thread())
        return real(asked)

    monkeypatch.setattr(offline, "_answer", seen)
    await ask(prompt("雨" * length))
    assert (threads[0] is not threading.main_thread()) is in_thread


async def test_a_megabyte_is_counted_exactly() -> None:
    text = NIGHT_RAIN * 1041
    assert len(text.encode()) > 1024 * 1024
    said = joined(await ask(prompt(text)))
    assert f"共{335 * 1041}字" in said
    assert len(said) < 500


@pytest.mark.parametrize("unit", [NIGHT_RAIN, EMPTY_BOX, "林", '"a', "Aa b ", "a. ", "林远道，", "\n "])
def test_a_long_prompt_is_answered_in_linear_time(unit: str) -> None:
    asked = prompt(unit * (256 * 1024 // len(unit.encode())))
    start = time.thread_time()
    offline._answer(asked)
    assert time.thread_time() - start < 5
