"""One request to one model: what it says comes through, and each thing that goes wrong has an error of its own."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest
from structlog.testing import capture_logs

from qingyu_ai.bus.errors import Code, Expired
from services.llm.faults import Upstream as Kind
from services.llm.faults import UpstreamFault
from services.llm.model import FILTERED, LENGTH, STOP, TOOL_CALLS, Prompt, Tool, ToolCallDelta, Turn
from tests.upstream.replies import chat, choices, ending, error, html, opening, tool_calls
from tests.upstream.script import (
    Counts,
    Cut,
    Done,
    Endless,
    Event,
    Finish,
    Pause,
    Raw,
    Reasoning,
    Reply,
    Role,
    Seen,
    Stall,
    Text,
)
from tests.waiting import eventually

from .conftest import KEY, Answer, Lab, ask

TEXT = "雨停了，院子里积着水。林黛玉推开窗，看见天边有一道虹。"


async def failed(
    lab: Lab, replies: Reply, into: Answer | None = None, seconds: float | None = None, **more: Any
) -> Any:
    with pytest.raises((UpstreamFault, Expired)) as error:
        await ask(lab.remote("m", replies, **more), into=into, seconds=seconds)
    return error.value


# What is said.


async def test_text_usage_finish_and_model_come_through(lab: Lab) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, usage=Counts(12, 34))))
    assert answer.text == TEXT
    assert (answer.last.finish, answer.last.model) == (STOP, "m")
    assert answer.last.usage is not None
    assert (answer.last.usage.prompt_tokens, answer.last.usage.completion_tokens) == (12, 34)
    assert not answer.last.usage.estimated
    [seen] = lab.upstream.seen()
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body["stream"] is True
    assert seen.body["stream_options"] == {"include_usage": True}
    assert seen.body["messages"] == [{"role": "user", "content": "雨停了吗？"}]


@pytest.mark.parametrize("where", ["asked", "own", "last"])
async def test_usage_counts_wherever_it_comes(lab: Lab, where: Any) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, usage=Counts(12, 34, reasoning=5), usage_in=where)))
    usage = answer.last.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (12, 34, 5)


async def test_usage_that_does_not_come_is_counted_here_and_marked(lab: Lab) -> None:
    usage = (await ask(lab.remote("m", chat(TEXT)))).last.usage
    assert usage is not None
    assert usage.estimated
    assert 10 < usage.completion_tokens < 30


async def test_usage_that_the_server_promises_and_does_not_send_is_not_waited_for(lab: Lab) -> None:
    began = time.monotonic()
    answer = await ask(lab.remote("m", opening(TEXT, Finish(), Stall())))
    assert (answer.text, answer.last.finish) == (TEXT, STOP)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_thought_comes_apart_from_text(lab: Lab, key: Any) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, reasoning="她要看雨。", reasoning_key=key)))
    assert (answer.reasoning, answer.text) == ("她要看雨。", TEXT)


async def test_thought_after_text_keeps_its_place(lab: Lab) -> None:
    steps = (Text("一"), Reasoning("想"), Text("二"), *ending())
    answer = await ask(lab.remote("m", Reply(steps, joined=True)))
    assert "".join(d.reasoning + d.text for d in answer.deltas) == "一想二"


async def test_tool_calls_come_in_pieces(lab: Lab) -> None:
    arguments = '{"text": "雨停了"}'
    model = lab.remote("m", tool_calls(("call_1", "statistics", arguments), ("call_2", "names", "{}")))
    prompt = Prompt((Turn("user", "数一数"),), tools=(Tool("statistics", "字数", {"type": "object"}),))
    answer = await ask(model, prompt)
    pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
    assert pieces[0] == ToolCallDelta(0, "call_1", "statistics")
    assert "".join(p.arguments for p in pieces if p.index == 0) == arguments
    assert [p.name for p in pieces if p.index == 1 and p.name] == ["names"]
    assert answer.last.finish == TOOL_CALLS
    [seen] = lab.upstream.seen()
    assert seen.body["tools"][0]["function"]["name"] == "statistics"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", STOP),
        ("length", LENGTH),
        ("content_filter", FILTERED),
        ("sensitive", FILTERED),
        ("eos", STOP),
        ("宝", STOP),
    ],
)
async def test_finish_reasons_are_translated(lab: Lab, said: str, meant: str) -> None:
    assert (await ask(lab.remote("m", chat(TEXT, finish=said)))).last.finish == meant


async def test_of_several_choices_the_first_is_the_answer(lab: Lab) -> None:
    assert (await ask(lab.remote("m", choices(TEXT, "另一个回答", "第三个")))).text == TEXT


async def test_server_that_does_not_stream_is_understood(lab: Lab) -> None:
    message = '{"role": "assistant", "content": "雨停了", "reasoning": "想"}'
    body = (
        f'{{"choices": [{{"index": 0, "message": {message}, "finish_reason": "stop"}}],'
        ' "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    )
    answer = await ask(lab.remote("m", Reply(body=body, content_type="application/json")))
    assert (answer.text, answer.reasoning, answer.last.finish) == ("雨停了", "想", STOP)
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 4


async def test_settings_shape_the_request(lab: Lab) -> None:
    more = {"extra_body": {"top_p": 0.5}, "stream_usage": False, "max_tokens_field": "max_completion_tokens"}
    model = lab.remote("m", chat("好"), request_tokens=100, **more)
    await ask(model, Prompt((Turn("user", "问"),), max_tokens=500, temperature=0.3))
    body = lab.upstream.seen()[0].body
    assert (body["top_p"], body["temperature"], body["max_completion_tokens"]) == (0.5, 0.3, 100)
    assert "stream_options" not in body


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("prefix", {"prefix": True}),
        ("partial", {"partial": True}),
        ("continue_final_message", {}),
    ],
)
async def test_interrupted_answer_is_marked_as_the_server_wants_it(lab: Lab, how: Any, expected: Any) -> None:
    model = lab.remote("m", chat("好"), continuation=how)
    await ask(model, Prompt((Turn("user", "续写"), Turn("assistant", "他推开门"))))
    body = lab.upstream.seen()[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "他推开门", **expected}
    assert body.get("continue_final_message", False) == (how == "continue_final_message")


async def test_rest_of_an_answer_may_be_nothing(lab: Lab) -> None:
    """A worker was lost after the last word and before the server said that it was the last."""
    model = lab.remote("m", Reply((Role(), Finish(), Done())), continuation="prefix")
    answer = await ask(model, Prompt((Turn("user", "续写"), Turn("assistant", "完了。"))))
    assert (answer.text, answer.deltas[-1].finish) == ("", STOP)
    assert len(lab.upstream.seen()) == 1


@pytest.mark.parametrize(("text", "word"), [("续写下去", "接着写"), ("Write on", "Go on")])
async def test_server_without_a_mark_is_asked_in_the_prompts_language(lab: Lab, text: str, word: str) -> None:
    await ask(lab.remote("m", chat("好")), Prompt((Turn("user", text), Turn("assistant", "1 2 3"))))
    last = lab.upstream.seen()[0].body["messages"][-1]
    assert last["role"] == "user"
    assert word in last["content"]


async def test_first_listed_model_is_asked_where_none_is_named(lab: Lab) -> None:
    lab.upstream.script("/v1/models", Reply(body='{"data": [{"id": "echo"}, {"id": "other"}]}'))
    model = lab.remote("")
    assert (await ask(model)).text == "雨停了吗？"
    assert (await ask(model)).text == "雨停了吗？"
    assert [seen.path for seen in lab.upstream.seen()].count("/v1/models") == 1


# How it is said.


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


# What goes wrong.

ARREARAGE = '{"code": 1113, "message": "arrearage"}'
CONTEXT = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (error(400, "temperature must be below 2"), Kind.REFUSED_REQUEST, Code.INVALID_ARGUMENT),
        (error(400, CONTEXT, code="context_length_exceeded"), Kind.CONTEXT_TOO_LONG, Code.INVALID_ARGUMENT),
        (error(400, CONTEXT), Kind.CONTEXT_TOO_LONG, Code.INVALID_ARGUMENT),
        (error(400, "输入文本过长，超过模型上下文"), Kind.CONTEXT_TOO_LONG, Code.INVALID_ARGUMENT),
        (error(413, "Payload Too Large"), Kind.CONTEXT_TOO_LONG, Code.INVALID_ARGUMENT),
        (error(400, "Model Not Exist"), Kind.NOT_AVAILABLE, Code.NOT_FOUND),
        (error(400, "内容包含敏感信息", code="1301"), Kind.CONTENT_REFUSED, Code.INVALID_ARGUMENT),
        (error(401, f"Incorrect API key provided: {KEY}"), Kind.KEY_REFUSED, Code.FAILED_PRECONDITION),
        (error(403, "forbidden"), Kind.KEY_REFUSED, Code.FAILED_PRECONDITION),
        (error(402, "Insufficient Balance"), Kind.QUOTA_USED_UP, Code.RESOURCE_EXHAUSTED),
        (error(404, "The model does not exist", code="model_not_found"), Kind.NOT_AVAILABLE, Code.NOT_FOUND),
        (error(429, "slow down"), Kind.BUSY, Code.RESOURCE_EXHAUSTED),
        (error(429, "You exceeded your current quota", code="insufficient_quota"), Kind.QUOTA_USED_UP, Code.RESOURCE_EXHAUSTED),
        (error(500, "oops"), Kind.FAILED, Code.UNAVAILABLE),
        (html(502), Kind.FAILED, Code.UNAVAILABLE),
        (error(503, "overloaded"), Kind.FAILED, Code.UNAVAILABLE),
        (error(501, "This server does not support embeddings"), Kind.NOT_AVAILABLE, Code.NOT_FOUND),
        (html(200), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}, body=""), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply(body="{not json", content_type="application/json"), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply((Raw(b"data: {broken\n\n"),)), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply((Event({"choices": "none"}),)), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply((Event({"error": {"message": "overloaded", "code": 503}}),)), Kind.FAILED, Code.UNAVAILABLE),
        (Reply((Event({"error": {"message": CONTEXT, "code": 400}}),)), Kind.CONTEXT_TOO_LONG, Code.INVALID_ARGUMENT),
        (Reply((Role(), Finish(), Done())), Kind.ANSWER_EMPTY, Code.UNAVAILABLE),
        (Reply((Raw(b'data: {"choices": [{"delta": {"content": "\xc4\xe3"}}]}\n\n'),)), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply((Raw(b'data: {"error": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n"),)), Kind.ANSWER_BROKEN, Code.UNAVAILABLE),
        (Reply(body="{}", content_type="application/json"), Kind.FAILED, Code.UNAVAILABLE),
        (Reply(body=ARREARAGE, content_type="application/json"), Kind.QUOTA_USED_UP, Code.RESOURCE_EXHAUSTED),
        (Reply(()), Kind.STREAM_CUT, Code.UNAVAILABLE),
        (Reply((Cut("rst"),)), Kind.STREAM_CUT, Code.UNAVAILABLE),
        (Reply((Raw(b"data: " + b"x" * 5_000_000),)), Kind.ANSWER_TOO_LARGE, Code.UNAVAILABLE),
    ],
    ids=lambda v: v.name if isinstance(v, Kind) else "",
)  # fmt: skip
async def test_each_failure_has_its_error(lab: Lab, reply: Reply, kind: Kind, code: Code) -> None:
    with capture_logs() as logs:
        fault = await failed(lab, reply)
    assert (fault.kind, fault.code, fault.reason) == (kind, code, f"MODEL_{kind.name}")
    assert fault.facts["model"] == "m"
    assert not fault.after_text
    assert "模型" in fault.chinese
    assert (fault.facts.get("code") == "5004") == (kind in (Kind.NOT_AVAILABLE, Kind.KEY_REFUSED))
    everything = f"{logs} {fault!r} {fault.message} {fault.chinese} {fault.detail} {fault.status!r}"
    assert KEY not in everything
    assert "Traceback" not in everything


async def test_path_that_is_not_there_is_told_from_a_model_that_is_not(lab: Lab) -> None:
    """For whoever reads the log: to leave out the version is the commonest slip."""
    with capture_logs() as logs:
        await failed(lab, html(404))
    [line] = [line for line in logs if line["event"] == "model_failed"]
    assert "does base_url end with its version" in line["detail"]
    assert line["server"] == lab.upstream.base_url


@pytest.mark.parametrize("value", ["Fri, 31 Dec 99999 23:59:59 GMT", "-5", "nan", "soon", "1e400"])
async def test_retry_after_that_is_none_does_no_harm(lab: Lab, value: str) -> None:
    assert (await failed(lab, error(429, "slow down", headers={"retry-after": value}))).kind is Kind.BUSY


async def test_key_at_the_edge_of_what_is_shown_is_masked(lab: Lab) -> None:
    with capture_logs() as logs:
        await failed(lab, Reply((Raw(b"data: " + b"x" * 195 + b" " + KEY.encode() + b"{\n\n"),)))
    assert KEY[:12] not in f"{logs}"


async def test_negative_usage_is_none(lab: Lab) -> None:
    answer = await ask(lab.remote("m", chat(TEXT, usage=Counts(-1, -1))))
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 0


async def test_done_with_a_blank_is_done(lab: Lab) -> None:
    assert (await ask(lab.remote("m", opening(TEXT, Finish(), Raw(b"data: [DONE] \n\n"))))).text == TEXT


async def test_retry_after_is_passed_on(lab: Lab) -> None:
    fault = await failed(lab, error(429, "slow down", headers={"retry-after": "7"}))
    assert fault.retry_seconds == 7


async def test_nobody_listens(lab: Lab) -> None:
    fault = await failed(lab, chat(TEXT), base_url="http://127.0.0.1:1/v1")
    assert (fault.kind, fault.facts["code"]) == (Kind.UNREACHABLE, "5004")


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (Cut("rst"), Kind.STREAM_CUT),
        (Cut("fin"), Kind.STREAM_CUT),
        (Raw(b"data: {broken\n\n"), Kind.ANSWER_BROKEN),
        (Event({"error": {"message": "overloaded"}}), Kind.FAILED),
        (Stall(), Kind.IDLE_TIMEOUT),
        (Endless(every=0.01), Kind.IDLE_TIMEOUT),
        (Raw(b"data: " + b"x" * 5_000_000), Kind.ANSWER_TOO_LARGE),
    ],
    ids=lambda v: v.name if isinstance(v, Kind) else "",
)
async def test_what_was_said_before_a_failure_is_kept(lab: Lab, last: Any, kind: Kind) -> None:
    said = Answer()
    fault = await failed(lab, opening(TEXT, Pause(0.05), last), said, idle_seconds=0.5)
    assert said.text == TEXT
    assert not said.last.finish
    assert (fault.kind, fault.after_text) == (kind, True)


async def test_text_and_failure_in_one_piece_come_both(lab: Lab) -> None:
    said = Answer()
    reply = opening(TEXT, Raw(b"data: {broken\n\n")).but(joined=True)
    assert (await failed(lab, reply, said)).kind is Kind.ANSWER_BROKEN
    assert said.text == TEXT


# Time.


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
    assert time.monotonic() - began < 2


# Cancel.

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
