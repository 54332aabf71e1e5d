"""One request to one model: each thing that goes wrong has an error of its own."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from qingyu_ai.bus.errors import Code
from services.llm.faults import Upstream as Kind
from tests.upstream.replies import chat, error, html, opening
from tests.upstream.script import (
    Counts,
    Cut,
    Done,
    Endless,
    Event,
    Finish,
    Pause,
    Raw,
    Reply,
    Role,
    Stall,
)

from .conftest import KEY, TEXT, Answer, Lab, ask, failed

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
