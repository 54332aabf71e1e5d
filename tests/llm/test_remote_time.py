"""One request to one model that takes its time, or whose caller has none any more."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from qingyu_ai.bus.errors import Code, Expired
from services.llm.faults import Upstream as Kind
from services.llm.faults import UpstreamFault
from services.llm.model import STOP, Prompt, Turn
from tests.upstream.replies import chat, opening
from tests.upstream.script import (
    Endless,
    Finish,
    Reply,
    Role,
    Seen,
    Stall,
    Text,
)
from tests.waiting import eventually

from .conftest import KEY, TEXT, Answer, Lab, ask, failed


async def test_no_connection_in_time(lab: Lab) -> None:
    """It is taken, and nothing more: the server does not speak TLS."""
    url = lab.upstream.base_url.replace("http:", "https:")
    fault = await failed(lab, chat(TEXT), base_url=url, connect_seconds=0.3)
    assert fault.kind is Kind.CONNECT_TIMEOUT


async def test_full_pool_is_not_a_sick_server(lab: Lab) -> None:
    model = lab.remote("m", opening(TEXT, Stall()), connections=1, first_token_seconds=0.3, breaker_failures=1)
    first = asyncio.create_task(ask(model))
    await arrived(lab)
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.chain(model))
    assert (fault.value.kind, fault.value.code) == (Kind.FULL, Code.RESOURCE_EXHAUSTED)
    assert model.server.breaker.state == "closed"
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_many_first_requests_at_once_do_not_wait_for_each_other(lab: Lab) -> None:
    """No connection is known yet, and each answer takes a while: nobody's answer is waited for to use its connection."""
    model = lab.remote("m", chat(TEXT).but(delay=0.5), connect_seconds=0.3)
    began = time.monotonic()
    answers = await asyncio.gather(*(ask(model) for _ in range(8)))
    assert [answer.text for answer in answers] == [TEXT] * 8
    assert time.monotonic() - began < 3


async def test_server_that_pings_after_the_last_word_is_not_waited_for(lab: Lab) -> None:
    began = time.monotonic()
    answer = await ask(lab.remote("m", opening(TEXT, Finish(), Endless(every=0.3))))
    assert (answer.text, answer.last.finish) == (TEXT, STOP)
    assert time.monotonic() - began < 10


SILENCES = {
    "no headers": chat(TEXT).but(delay=5),
    "nothing": Reply((Stall(),)),
    "pings": Reply((Role(), Endless(every=0.01))),
}


@pytest.mark.parametrize("reply", SILENCES.values(), ids=SILENCES)
async def test_no_token_in_time(lab: Lab, reply: Reply) -> None:
    fault = await failed(lab, reply, first_token_seconds=0.3)
    assert (fault.kind, fault.code) == (Kind.FIRST_TOKEN_TIMEOUT, Code.DEADLINE_EXCEEDED)


async def test_answer_that_takes_too_long(lab: Lab) -> None:
    said = Answer()
    fault = await failed(lab, Reply((Endless(Text("雨"), every=0.01),)), said, total_seconds=0.5)
    assert fault.kind is Kind.TOTAL_TIMEOUT
    assert len(said.text) > 5


SLOW = {
    "no headers": chat(TEXT).but(delay=5),
    "silence": opening(TEXT, Stall()),
    "text without end": Reply((Endless(Text("雨"), every=0.01),)),
}


@pytest.mark.parametrize("reply", SLOW.values(), ids=SLOW)
async def test_no_time_is_longer_than_the_callers(lab: Lab, reply: Reply) -> None:
    began = time.monotonic()
    assert isinstance(await failed(lab, reply, seconds=0.3), Expired)
    assert time.monotonic() - began < 4


PHASES = {
    "before the headers": chat(TEXT).but(delay=30),
    "before the first token": Reply((Role(), Stall())),
    "in the middle": opening(TEXT, Stall()),
    "while it speaks": Reply((Endless(Text("雨"), every=0.005),)),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_cancel_closes_the_socket_within_50_ms(lab: Lab, phase: str) -> None:
    """The upstream's own clock says when it saw the connection close."""
    model = lab.remote("m", PHASES[phase])
    said = Answer()
    task = asyncio.create_task(ask(model, into=said))
    await arrived(lab)
    if phase in ("in the middle", "while it speaks"):
        await eventually(lambda: bool(said.text))
    task.cancel()
    cancelled_at = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = await closed(lab)
    assert seen.ended == "client_closed"
    assert seen.closed_at is not None
    assert seen.closed_at - cancelled_at < 0.05


async def test_cancel_while_it_waits_for_a_connection_asks_nothing(lab: Lab) -> None:
    model = lab.remote("m", chat(TEXT).but(delay=30), connections=1)
    first = asyncio.create_task(ask(model))
    await arrived(lab)
    second = asyncio.create_task(ask(model))
    await asyncio.sleep(0.05)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert len(lab.upstream.seen()) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_leaving_early_closes_the_socket(lab: Lab) -> None:
    model = lab.remote("m", Reply((Endless(Text("雨"), every=0.005),)))
    async with aclosing(model.stream(Prompt((Turn("user", "问"),)))) as deltas:
        async for _ in deltas:
            break
    left_at = time.monotonic()
    seen = await closed(lab)
    assert seen.closed_at is not None
    assert seen.closed_at - left_at < 0.05


async def arrived(lab: Lab) -> None:
    await eventually(lambda: bool(lab.upstream.seen()))


async def closed(lab: Lab) -> Seen:
    await eventually(lambda: lab.upstream.seen()[0].closed_at is not None)
    return lab.upstream.seen()[0]


def test_keys_are_in_no_repr(lab: Lab) -> None:
    model = lab.remote("m")
    assert KEY not in f"{model!r} {model.server!r} {model.settings!r} {lab.curls!r} {lab.long(model)!r}"
