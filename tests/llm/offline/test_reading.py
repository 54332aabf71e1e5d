from __future__ import annotations

import pytest

from services.llm.model import Turn
from services.llm.offline.reading import read

from .samples import EDITOR, EMPTY_BOX, NIGHT_RAIN


def user(text: str) -> Turn:
    return Turn("user", text)


def test_the_last_user_message_is_the_one_that_is_read() -> None:
    reading = read((Turn("system", EDITOR), user("一"), Turn("assistant", "二"), user("雨停了。")))
    assert reading.number == 2
    assert reading.message
    assert reading.message.text == "雨停了。"
    assert reading.earlier
    assert reading.earlier.text == "一"
    assert reading.system
    assert reading.system.zi == 14
    assert reading.turns == 4


def test_a_chapter_is_measured() -> None:
    message = read((user(NIGHT_RAIN),)).message
    assert message
    assert (message.paragraphs, message.sentences, message.size) == (11, 20, len("".join(NIGHT_RAIN.split())))
    assert message.longest
    assert message.longest.text == "林晚秋推开窗，看见青石板上积着浅浅的水，水里映着半截灯笼，红得像是旧年的事。"
    assert (message.longest.size, message.longest.pauses) == (38, 3)
    assert message.last
    assert message.last.text == "可是那只木匣，为什么轻得像是空的？"
    assert round(message.speech_share, 2) == 0.11


def test_english_is_measured_in_words() -> None:
    message = read((user(EMPTY_BOX),)).message
    assert message
    assert message.size == len(EMPTY_BOX.split())
    assert message.longest
    assert message.longest.size == 32


@pytest.mark.parametrize(
    ("turns", "language"),
    [
        ([user("雨")], "zh"),
        ([user("rain")], "en"),
        ([user("rain"), user("😀")], "en"),  # an emoji is answered in the language of the talk
        ([Turn("system", "Be brief."), user("…")], "en"),
        ([user("😀")], "zh"),
        ([], "zh"),
    ],
)
def test_the_answer_is_in_the_users_language(turns: list[Turn], language: str) -> None:
    assert read(turns).language == language


@pytest.mark.parametrize(
    ("text", "pauses"), [("雨，夜；灯：", 2), ("10,000 at 12:30", 0), ("a, b; c", 2), ("好,走", 1), ("http://a", 0)]
)
def test_a_pause_is_a_mark_within_a_sentence(text: str, pauses: int) -> None:
    message = read((user(text),)).message
    assert message
    assert message.last
    assert message.last.pauses == pauses


def test_the_checksum_tells_prompts_apart_that_look_alike_in_the_sum() -> None:
    prompts = [
        (user("雨"), user("夜")),
        (user("雨夜"),),
        (user("夜雨"),),
        (user("夜"), user("雨")),
        (Turn("system", "雨"), user("夜")),
        (user("雨"), Turn("assistant", "夜")),
        (),
    ]
    assert len({read(turns).checksum for turns in prompts}) == len(prompts)
