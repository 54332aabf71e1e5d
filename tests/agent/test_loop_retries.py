"""The loop with a scripted model that fails: what is tried again, and what is kept."""

from __future__ import annotations

import pytest

from qingyu_ai.bus.errors import Code
from services.agent import loop
from services.llm.faults import Upstream, UpstreamFault
from services.llm.gate import Stopped
from services.llm.model import LENGTH, Delta, ToolCallDelta, Usage

from .scripted import (
    BUSY,
    REFUSED,
    Answer,
    Lab,
    ScriptedModel,
    calls,
    kinds,
    request,
    says,
    text_of,
    two_tools,
)


async def test_a_step_that_failed_before_it_said_anything_is_tried_again() -> None:
    model = ScriptedModel([BUSY], [Delta(tool_calls=(ToolCallDelta(0, "a", "x"),)), BUSY], says("好"))
    answer = await Lab(model).ask(request())
    assert (answer.status, answer.output, answer.stats.retry_count) == ("completed", "好", 2)


async def test_max_retries_is_obeyed() -> None:
    model = ScriptedModel([BUSY])
    answer = await Lab(model).ask(request(options={"max_retries": 1}))
    assert (answer.status, answer.stats.retry_count, len(model.prompts)) == ("failed", 1, 2)
    assert answer.response_status.code == Code.UNAVAILABLE
    assert answer.response_status.details == "MODEL_FAILED"
    assert "上游出错" in answer.response_status.message


async def test_what_would_fail_again_is_not_tried_again() -> None:
    model = ScriptedModel([REFUSED])
    answer = await Lab(model).ask(request())
    assert (answer.status, answer.response_status.details, len(model.prompts)) == ("failed", "MODEL_KEY_REFUSED", 1)


async def test_a_failure_in_the_middle_of_the_text_keeps_it() -> None:
    model = ScriptedModel([Delta("雨停"), Delta("了"), UpstreamFault(Upstream.STREAM_CUT, "scripted")])
    lab = Lab(model)
    answer = await lab.ask(request())
    assert (answer.status, answer.output, answer.stats.retry_count) == ("failed", "雨停了", 0)
    assert (answer.response_status.details, answer.metadata.extra["finish_reason"]) == ("MODEL_STREAM_CUT", "cut")
    assert answer.metadata.extra["tokens_estimated"] == "true"
    assert answer.stats.tokens_used > 0
    chunks = await lab.stream(request())
    assert (text_of(chunks), kinds(chunks)) == ("雨停了", ["text", "final"])
    assert chunks[-1].metadata["status"] == "failed"


async def test_thought_that_was_shown_is_not_thought_again_and_hidden_thought_may_be() -> None:
    broken: Answer = [Delta(reasoning="想一想"), BUSY]
    shown = await Lab(ScriptedModel(broken, says("好"))).ask(request(options={"enable_reasoning": True}))
    assert (shown.status, list(shown.reasoning)) == ("failed", ["想一想"])
    hidden = await Lab(ScriptedModel(broken, says("好"))).ask(request())
    assert (hidden.status, hidden.output, list(hidden.reasoning)) == ("completed", "好", [])


async def test_reasoning_is_streamed_only_if_it_is_enabled() -> None:
    model = ScriptedModel(says("好", reasoning="想一想"))
    assert kinds(await Lab(model).stream(request())) == ["text", "final"]
    enabled = request(options={"enable_reasoning": True})
    assert kinds(await Lab(model).stream(enabled)) == ["reasoning", "text", "final"]


async def test_a_stream_without_an_end_has_failed() -> None:
    answer = await Lab(ScriptedModel([Delta("雨停了，他")])).ask(request())
    assert (answer.status, answer.output, answer.response_status.details) == (
        "failed",
        "雨停了，他",
        "MODEL_STREAM_CUT",
    )


async def test_an_answer_that_is_cut_at_max_tokens_is_completed_and_says_length() -> None:
    model = ScriptedModel(says("雨停了", finish=LENGTH, usage=Usage(100, 20, estimated=False)))
    answer = await Lab(model, two_tools()).ask(request(options={"max_tokens": 20}, tools=["text_statistics"]))
    assert (answer.status, answer.metadata.extra["finish_reason"]) == ("completed", "length")
    assert [p.max_tokens for p in model.prompts] == [20]


async def test_a_text_with_tools_that_is_cut_by_the_server_goes_on() -> None:
    model = ScriptedModel(says("雨停了，", finish=LENGTH), says("他推开门。"))
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output) == ("completed", "雨停了，他推开门。")
    assert model.prompts[1].turns[-1].content == "雨停了，"
    assert not model.prompts[1].tools
    assert model.prompts[1].max_tokens == 8192 - 10


async def test_thought_that_came_to_nothing_leaves_the_answer_its_length() -> None:
    nothing = says("", reasoning="想了很久", usage=Usage(100, 8000, estimated=False))
    model = ScriptedModel(nothing, calls(("text_statistics", {"text": "一"})), says("好。"))
    answer = await Lab(model, two_tools()).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output, answer.stats.retry_count) == ("completed", "好。", 1)
    assert [p.max_tokens for p in model.prompts] == [8192, 8192, 8192]


@pytest.mark.parametrize(("asked_seconds", "again"), [(0.05, True), (0.2, False)])
async def test_a_server_that_wants_to_be_left_alone_for_longer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, asked_seconds: float, again: bool
) -> None:
    monkeypatch.setattr(loop, "BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(loop, "BACKOFF_LONGEST", 0.1)
    model = ScriptedModel([UpstreamFault(Upstream.BUSY, "scripted", retry_seconds=asked_seconds)], says("好"))
    answer = await Lab(model).ask(request())
    assert (answer.status, len(model.prompts)) == (("completed", 2) if again else ("failed", 1))
    assert answer.response_status.details == ("" if again else "MODEL_BUSY")


async def test_a_wait_that_is_longer_than_what_is_left_is_a_failure_at_once_and_no_timeout() -> None:
    model = ScriptedModel([UpstreamFault(Upstream.BUSY, "scripted", retry_seconds=5)], says("好"))
    answer = await Lab(model).ask(request(options={"timeout_seconds": 2}))
    assert (answer.status, answer.response_status.details, len(model.prompts)) == ("failed", "MODEL_BUSY", 1)


class Stops:
    """A gate that ends a text at a word."""

    def feed(self, text: str) -> str:
        if "禁" in text:
            raise Stopped(text.partition("禁")[0])
        return text

    def close(self) -> str:
        return ""


async def test_an_answer_that_a_check_ends_has_failed_and_keeps_what_came_before() -> None:
    answer = await Lab(ScriptedModel(says("雨停了禁书", size=2)), new_gate=Stops).ask(request())
    assert (answer.status, answer.output) == ("failed", "雨停了")
    assert answer.response_status.details == "AGENT_ANSWER_STOPPED"
    assert answer.metadata.extra["finish_reason"] == "content_filter"
