"""Retries and fallbacks happen before the first token, and only then; long answers go on by themselves."""

from __future__ import annotations

import asyncio
import time

import pytest

from qingyu_ai.bus.errors import Expired
from qingyu_ai.settings import Llm, Settings
from services.llm.faults import Upstream as Kind
from services.llm.faults import UpstreamFault
from services.llm.long import LongAnswer
from services.llm.model import LENGTH, STOP, Prompt, Turn
from services.llm.offer import open_offer
from tests.upstream.replies import chat, error, html, opening
from tests.upstream.script import Counts, Cut, Pause, Reply, Seen, Stall
from tests.waiting import eventually

from .conftest import Answer, Lab, ask

TEXT = "雨停了，院子里积着水。"


def asked(lab: Lab, model: str) -> list[Seen]:
    return [seen for seen in lab.upstream.seen() if seen.body["model"] == model]


# Retries.


async def test_failure_before_the_first_token_is_tried_again(lab: Lab) -> None:
    model = lab.remote("m", [error(503, "busy"), Reply((Cut("rst"),)), chat(TEXT)], attempts=3)
    assert (await ask(lab.chain(model))).text == TEXT
    assert len(asked(lab, "m")) == 3
    assert lab.metric("qingyu_model_retries_total", model="m") == 2
    assert lab.metric("qingyu_model_errors_total", model="m", reason="MODEL_FAILED") == 1
    assert lab.metric("qingyu_model_errors_total", model="m", reason="MODEL_STREAM_CUT") == 1


async def test_attempts_are_all_told(lab: Lab) -> None:
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.chain(lab.remote("m", error(503, "busy"), attempts=2)))
    assert fault.value.kind is Kind.FAILED
    assert len(asked(lab, "m")) == 2


@pytest.mark.parametrize("reply", [error(400, "bad"), error(401, "key"), error(404, "no"), error(402, "pay")])
async def test_what_asking_again_cannot_mend_is_not_asked_again(lab: Lab, reply: Reply) -> None:
    with pytest.raises(UpstreamFault):
        await ask(lab.chain(lab.remote("m", [reply, chat(TEXT)], attempts=3)))
    assert len(asked(lab, "m")) == 1


async def test_retry_after_is_kept(lab: Lab) -> None:
    model = lab.remote("m", [error(429, "slow down", headers={"retry-after": "0.7"}), chat(TEXT)], attempts=2)
    await ask(lab.chain(model))
    first, second = asked(lab, "m")
    assert second.at - first.at >= 0.7


async def test_longer_retry_after_than_anybody_would_wait_is_the_callers(lab: Lab) -> None:
    model = lab.remote("m", [error(429, "slow down", headers={"retry-after": "60"}), chat(TEXT)], attempts=2)
    began = time.monotonic()
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.chain(model))
    assert (fault.value.kind, fault.value.retry_seconds) == (Kind.BUSY, 60)
    assert time.monotonic() - began < 5


async def test_nothing_is_tried_again_after_the_first_token(lab: Lab) -> None:
    said = Answer()
    model = lab.remote("m", [opening(TEXT, Pause(0.05), Cut("rst")), chat("不该出现")], attempts=3)
    other = lab.remote("other", chat("不该出现"))
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.chain(model, other), into=said)
    assert (said.text, fault.value.kind, fault.value.after_text) == (TEXT, Kind.STREAM_CUT, True)
    assert len(lab.upstream.seen()) == 1


async def test_retries_end_with_the_callers_time(lab: Lab) -> None:
    began = time.monotonic()
    with pytest.raises((UpstreamFault, Expired)):
        await ask(lab.chain(lab.remote("m", error(503, "busy"), attempts=10)), seconds=0.5)
    assert time.monotonic() - began < 3


async def test_cancel_while_it_waits_to_ask_again_ends_it(lab: Lab) -> None:
    model = lab.remote("m", error(503, "busy", headers={"retry-after": "5"}), attempts=3)
    task = asyncio.create_task(ask(lab.chain(model)))
    await eventually(lambda: asked(lab, "m"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asked(lab, "m")) == 1


# Fallback.


async def test_next_model_answers_and_says_so(lab: Lab) -> None:
    chain = lab.chain(lab.remote("a", error(401, "key")), lab.remote("b", html(502)), lab.remote("c", chat(TEXT)))
    answer = await ask(chain)
    assert (answer.text, answer.last.model) == (TEXT, "c")
    assert lab.metric("qingyu_model_fallbacks_total", asked="a", model="c") == 1


async def test_silent_model_is_left_for_the_next_one(lab: Lab) -> None:
    chain = lab.chain(lab.remote("a", Reply((Stall(),)), first_token_seconds=0.3), lab.remote("b", chat(TEXT)))
    assert (await ask(chain)).last.model == "b"


async def test_bad_request_is_bad_everywhere(lab: Lab) -> None:
    with pytest.raises(UpstreamFault):
        await ask(lab.chain(lab.remote("a", error(400, "bad")), lab.remote("b", chat(TEXT))))
    assert not asked(lab, "b")


async def test_if_none_answers_the_error_is_the_first_models(lab: Lab) -> None:
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.chain(lab.remote("a", error(429, "slow down")), lab.remote("b", error(401, "key"))))
    assert (fault.value.kind, fault.value.facts["model"]) == (Kind.BUSY, "a")


# Breaker.


async def test_server_that_failed_often_is_left_in_peace_and_then_asked_once(lab: Lab) -> None:
    model = lab.remote("m", error(503, "busy"), breaker_failures=3, breaker_seconds=0.4)
    chain = lab.chain(model)
    for _ in range(5):
        with pytest.raises(UpstreamFault) as fault:
            await ask(chain)
    assert fault.value.kind is Kind.RESTING
    assert len(asked(lab, "m")) == 3

    await asyncio.sleep(0.45)
    lab.upstream.script("m", chat(TEXT).but(delay=0.2))
    answers = await asyncio.gather(*(ask(chain) for _ in range(5)), return_exceptions=True)
    assert len(asked(lab, "m")) == 4  # one probe; the others were sent away
    assert len([a for a in answers if isinstance(a, Answer)]) == 1
    assert (await ask(chain)).text == TEXT


async def test_aliases_of_one_server_share_its_breaker(lab: Lab) -> None:
    lab.upstream.script("sick", error(503, "busy"))
    one = {"base_url": lab.upstream.base_url, "attempts": 1, "breaker_failures": 2}
    models = {"a": {**one, "model": "sick"}, "b": {**one, "model": "sick"}}
    offer = open_offer(Settings(llm=Llm.model_validate({"models": models})), lab.meters)
    kinds = []
    for alias in ("a", "b", "a", "b"):
        with pytest.raises(UpstreamFault) as fault:
            await ask(offer.find(alias))
        kinds.append((fault.value.facts["model"], fault.value.kind))
    assert kinds == [("a", Kind.FAILED), ("b", Kind.FAILED), ("a", Kind.RESTING), ("b", Kind.RESTING)]
    offer.close()


async def test_refusals_and_cancelled_calls_do_not_open_it(lab: Lab) -> None:
    chain = lab.chain(lab.remote("m", error(429, "slow down"), breaker_failures=2))
    for _ in range(4):
        with pytest.raises(UpstreamFault) as fault:
            await ask(chain)
        assert fault.value.kind is Kind.BUSY
    lab.upstream.script("m", Reply((Stall(),)))
    for _ in range(4):
        task = asyncio.create_task(ask(chain))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    lab.upstream.script("m", chat(TEXT))
    assert (await ask(chain)).text == TEXT


async def test_streams_that_are_cut_open_it_too(lab: Lab) -> None:
    chain = lab.chain(lab.remote("m", opening(TEXT, Pause(0.02), Cut("rst")), breaker_failures=2))
    kinds = []
    for _ in range(3):
        with pytest.raises(UpstreamFault) as fault:
            await ask(chain)
        kinds.append(fault.value.kind)
    assert kinds == [Kind.STREAM_CUT, Kind.STREAM_CUT, Kind.RESTING]


# Long answers.

PARTS = ["第一章，雨停了。林黛玉推开窗，", "看见天边有一道虹。宝玉说：", "“妹妹，你看。”"]


def parts(*, repeat: int = 0) -> list[Reply]:
    replies = []
    for i, part in enumerate(PARTS):
        before = "".join(PARTS[:i])[-repeat:] if repeat else ""
        finish = "stop" if i == len(PARTS) - 1 else "length"
        replies.append(chat(before + part, finish=finish, usage=Counts(10, 20)))
    return replies


@pytest.mark.parametrize("repeat", [0, 5, 9])
async def test_text_cut_by_its_length_goes_on_without_a_seam(lab: Lab, repeat: int) -> None:
    model = lab.remote("m", parts(repeat=repeat), request_tokens=20)
    answer = await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=1000))
    assert answer.text == "".join(PARTS)
    assert answer.last.finish == STOP
    assert [delta for delta in answer.deltas if delta.finish] == [answer.last]
    assert answer.last.usage is not None
    assert (answer.last.usage.prompt_tokens, answer.last.usage.completion_tokens) == (30, 60)
    bodies = [seen.body for seen in asked(lab, "m")]
    assert [body["max_tokens"] for body in bodies] == [20, 20, 20]
    assert bodies[2]["messages"][1] == {"role": "assistant", "content": PARTS[0] + PARTS[1]}
    assert "接着写" in bodies[2]["messages"][2]["content"]
    assert lab.metric("qingyu_model_continued_total", model="m") == 2


async def test_no_more_is_asked_for_than_the_caller_allows(lab: Lab) -> None:
    model = lab.remote("m", chat(PARTS[0], finish="length", usage=Counts(10, 20)), request_tokens=20)
    answer = await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=45))
    assert answer.last.finish == LENGTH
    assert [seen.body["max_tokens"] for seen in asked(lab, "m")] == [20, 20]  # 5 that are left are not worth a request


async def test_no_more_is_asked_for_than_the_caller_allows_where_the_server_counts_nothing(lab: Lab) -> None:
    model = lab.remote("m", [chat(part, finish="length") for part in PARTS], request_tokens=20)
    answer = await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=60))
    assert (answer.text, answer.last.finish) == ("".join(PARTS), LENGTH)
    assert [seen.body["max_tokens"] for seen in asked(lab, "m")] == [20, 20, 20]


async def test_callers_own_limit_is_not_passed(lab: Lab) -> None:
    model = lab.remote("m", chat(PARTS[0], finish="length"))
    answer = await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=100))
    assert (answer.text, answer.last.finish) == (PARTS[0], LENGTH)
    assert len(asked(lab, "m")) == 1


async def test_server_with_a_smaller_limit_than_anybody_said_is_asked_again(lab: Lab) -> None:
    """What it counted is less than what it was asked for, so it was not the caller's limit that it kept."""
    replies = [chat(PARTS[0], finish="length", usage=Counts(10, 20)), chat(PARTS[1], usage=Counts(30, 20))]
    answer = await ask(lab.long(lab.remote("m", replies)), Prompt((Turn("user", "写一章"),), max_tokens=1000))
    assert (answer.text, answer.last.finish) == (PARTS[0] + PARTS[1], STOP)
    assert [seen.body["max_tokens"] for seen in asked(lab, "m")] == [1000, 980]


async def test_whole_answer_keeps_to_its_time_however_many_requests_it_takes(lab: Lab) -> None:
    slow = [chat(part, finish="length", usage=Counts(10, 20)).but(delay=0.3) for part in PARTS]
    model = lab.remote("m", slow, request_tokens=20, total_seconds=0.8)
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=10_000))
    assert fault.value.kind is Kind.TOTAL_TIMEOUT


async def test_rest_that_is_cut_gives_up_what_the_seam_held(lab: Lab) -> None:
    said = Answer()
    first = chat(PARTS[0], finish="length", usage=Counts(10, 20))
    model = lab.remote("m", [first, opening("林黛玉", Pause(0.05), Cut("rst"))], request_tokens=20)
    with pytest.raises(UpstreamFault):
        await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=1000), into=said)
    assert said.text == PARTS[0] + "林黛玉"


async def test_answer_that_does_not_grow_ends(lab: Lab) -> None:
    model = lab.remote("m", [chat(PARTS[0], finish="length"), chat("", finish="length")], request_tokens=20)
    answer = await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=10_000))
    assert (answer.text, answer.last.finish) == (PARTS[0], LENGTH)
    assert len(asked(lab, "m")) == 2


FULL = error(
    400, "request (4101 tokens) exceeds the available context size (4096 tokens)", type="exceed_context_size_error"
)


async def test_answer_that_fills_the_context_ends_there(lab: Lab) -> None:
    model = lab.remote("m", [chat(PARTS[0], finish="length", usage=Counts(10, 20)), FULL])
    answer = await ask(lab.long(model))
    assert (answer.text, answer.last.finish, answer.last.model) == (PARTS[0], LENGTH, "m")
    assert answer.last.usage is not None
    assert (answer.last.usage.prompt_tokens, answer.last.usage.completion_tokens) == (10, 20)
    assert len(asked(lab, "m")) == 2


async def test_interrupted_answer_that_fills_the_context_is_an_error(lab: Lab) -> None:
    model = lab.remote("m", FULL)
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.long(model), Prompt((Turn("user", "写一章"), Turn("assistant", PARTS[0]))))
    assert fault.value.kind is Kind.CONTEXT_TOO_LONG


async def test_interrupted_answer_is_joined_without_a_repeat(lab: Lab) -> None:
    model = lab.remote("m", chat("推开窗，看见天边有一道虹。"))
    prompt = Prompt((Turn("user", "写一章"), Turn("assistant", PARTS[0])))
    assert (await ask(lab.long(model), prompt)).text == "看见天边有一道虹。"


async def test_rest_may_come_from_another_model(lab: Lab) -> None:
    first = lab.remote("a", [chat(PARTS[0], finish="length"), error(503, "gone")], request_tokens=20)
    chain = lab.chain(first, lab.remote("b", chat(PARTS[1])))
    answer = await ask(LongAnswer(chain, first.settings, lab.meters), Prompt((Turn("user", "写"),), max_tokens=500))
    assert (answer.text, answer.last.model) == (PARTS[0] + PARTS[1], "b")


async def test_rest_that_cannot_be_had_leaves_a_text_that_says_it_is_cut_by_length(lab: Lab) -> None:
    """Also what it cost is told."""
    first = chat(PARTS[0], finish="length", usage=Counts(10, 20))
    model = lab.remote("m", [first, error(503, "gone")], request_tokens=20)
    answer = await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=1000))
    assert (answer.text, answer.last.finish, answer.last.model) == (PARTS[0], LENGTH, "m")
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 20


async def test_rest_that_is_cut_in_its_middle_is_an_error_after_text(lab: Lab) -> None:
    said = Answer()
    first = chat(PARTS[0], finish="length", usage=Counts(10, 20))
    model = lab.remote("m", [first, opening(PARTS[1], Pause(0.05), Cut("rst"))], request_tokens=20)
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.long(model), Prompt((Turn("user", "写一章"),), max_tokens=1000), into=said)
    assert (said.text, fault.value.kind, fault.value.after_text) == (PARTS[0] + PARTS[1], Kind.STREAM_CUT, True)
