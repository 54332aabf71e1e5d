"""One request to one model: how its bytes may come, and over which connections."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from services.llm.model import STOP, Prompt, Turn
from tests.upstream.replies import chat, ending, opening
from tests.upstream.script import (
    Counts,
    Done,
    Event,
    Finish,
    Raw,
    Reply,
    Text,
)

from .conftest import TEXT, Lab, ask


@pytest.mark.parametrize("split", [1, 2, 3, 7, 64])
async def test_answer_is_the_same_wherever_its_bytes_are_split(lab: Lab, split: int) -> None:
    assert (await ask(lab.remote("m", chat(TEXT, usage=Counts(1, 2)).but(split=split)))).text == TEXT


@pytest.mark.parametrize(
    "change", [{"eol": "\r\n"}, {"eol": "\r"}, {"prefix": "data:"}, {"framing": "close"}, {"joined": True}], ids=str
)
async def test_other_line_ends_and_framings_are_read(lab: Lab, change: Any) -> None:
    assert (await ask(lab.remote("m", chat(TEXT, finish="stop").but(**change)))).text == TEXT


async def test_comments_keepalives_and_other_fields_are_read_over(lab: Lab) -> None:
    noise = Raw(b": ping\n\nevent: message\nid: 7\nretry: 10\n\n")
    steps = (
        Raw(b"\xef\xbb\xbf"),
        noise,
        Text("雨"),
        noise,
        Event({"choices": []}, lines=True),
        Text("停"),
        noise,
        *ending(),
    )
    assert (await ask(lab.remote("m", Reply(steps)))).text == "雨停"


async def test_stream_without_done_is_whole_if_the_model_ended(lab: Lab) -> None:
    answer = await ask(lab.remote("m", opening(TEXT, Finish())))
    assert (answer.text, answer.last.finish) == (TEXT, STOP)


async def test_stream_without_a_finish_reason_is_whole_if_it_says_done(lab: Lab) -> None:
    assert (await ask(lab.remote("m", opening(TEXT, Done())))).text == TEXT


async def test_token_of_a_megabyte_comes_whole(lab: Lab) -> None:
    huge = "雨" * 350_000
    answer = await ask(lab.remote("m", Reply((Text(huge), *ending()))))
    assert answer.text == huge


async def test_connection_is_used_again(lab: Lab) -> None:
    model = lab.remote("m", chat(TEXT))
    for _ in range(3):
        await ask(model)
    assert len({seen.connection for seen in lab.upstream.seen()}) == 1


async def test_connection_that_the_server_has_closed_meanwhile_costs_no_answer(lab: Lab) -> None:
    """A kept connection may be dead when it is wanted again; that is found out, and not told."""
    lab.upstream.script("m", chat(TEXT))
    model = lab.remote("m")
    await ask(model)
    lab.upstream.stop()
    lab.upstream.start()
    lab.upstream.script("m", chat(TEXT))
    assert (await ask(model)).text == TEXT


async def test_no_more_connections_are_open_than_the_settings_say(lab: Lab) -> None:
    model = lab.remote("m", chat(TEXT).but(delay=0.05), connections=2)
    answers = await asyncio.gather(*(ask(model) for _ in range(6)))
    assert [answer.text for answer in answers] == [TEXT] * 6
    assert len({seen.connection for seen in lab.upstream.seen()}) == 2


async def test_slow_reader_makes_the_server_wait(lab: Lab) -> None:
    """What nobody has read is bounded here; the rest waits at the server, and comes."""
    count, piece = 400, "雨" * 10_000
    model = lab.remote("m", Reply((*[Text(piece)] * count, *ending())))
    size = 0
    async with aclosing(model.stream(Prompt((Turn("user", "问"),)))) as deltas:
        async for delta in deltas:
            if not size:
                await asyncio.sleep(0.5)
                assert lab.upstream.seen()[0].ended is None  # 12 MB have not gone through
            size += len(delta.text)
    assert size == count * len(piece)
