"""The loop with the real model client, over HTTP, at a scripted OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from qingyu_ai.settings import ChatModel
from services.llm.chain import Chain
from services.llm.curl import Curls
from services.llm.long import LongAnswer
from services.llm.meters import Meters
from services.llm.model import Model
from services.llm.remote import RemoteModel
from services.llm.server import Server
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, error, opening, tool_calls
from tests.upstream.script import Counts, Cut, Done, Finish, Pause, Reply, Role, Stall

from .scripted import Box, Lab, kinds, new_call, request, text_of

USAGE = Counts(prompt=120, completion=8)


@pytest.fixture(scope="module")
def upstream_process() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def upstream(upstream_process: Upstream) -> Upstream:
    upstream_process.reset()
    return upstream_process


@pytest.fixture
async def curls() -> AsyncIterator[Curls]:
    curls = Curls()
    yield curls
    assert curls.open == 0, "a transfer was left behind"
    curls.close()


class Scripted:
    """A worker's model at the scripted server."""

    def __init__(self, upstream: Upstream, curls: Curls) -> None:
        self.upstream = upstream
        self._curls = curls

    def model(
        self, replies: Sequence[Reply] | Reply, *, stands_in: Sequence[Reply] | Reply | None = None, **more: Any
    ) -> Model:
        self.upstream.script("novel-1", replies)
        settings = ChatModel(**{"base_url": self.upstream.base_url, "model": "novel-1", "attempts": 1, **more})
        meters = Meters(CollectorRegistry())
        remotes = [RemoteModel(Server("writer", settings, self._curls), settings, meters)]
        if stands_in is not None:
            self.upstream.script("novel-2", stands_in)
            other = settings.model_copy(update={"model": "novel-2"})
            remotes.append(RemoteModel(Server("other", other, self._curls), other, meters))
        return LongAnswer(Chain(remotes, meters), settings, meters)

    def lab(self, replies: Sequence[Reply] | Reply, box: Box | None = None, **more: Any) -> Lab:
        return Lab(self.model(replies, **more), box or Box())

    @property
    def bodies(self) -> list[Any]:
        return [seen.body for seen in self.upstream.seen() if seen.path.endswith("/chat/completions")]


@pytest.fixture
def scripted(upstream: Upstream, curls: Curls) -> Scripted:
    return Scripted(upstream, curls)


def tools() -> Box:
    return Box().with_tool("text_statistics").with_tool("repeated_phrases")


async def test_two_tools_at_once_then_thought_then_text(scripted: Scripted) -> None:
    replies = [
        tool_calls(
            ("call_a", "text_statistics", '{"text": "夜雨"}'),
            ("call_b", "repeated_phrases", '{"text": "夜雨夜雨"}'),
            usage=USAGE,
        ),
        chat("夜雨落在瓦上。", reasoning="两字。", usage=Counts(prompt=200, completion=12, reasoning=3)),
    ]
    asked = request(tools=["text_statistics", "repeated_phrases"], options={"enable_reasoning": True})
    chunks = await scripted.lab(replies, tools()).stream(asked)
    assert text_of(chunks) == "夜雨落在瓦上。"
    assert kinds(chunks) == ["tool_start", "tool_end", "reasoning", "text", "final"]
    facts = chunks[-1].metadata
    assert (facts["tokens_used"], facts["tokens_estimated"]) == ("340", "false")
    assert (facts["tool_calls_count"], facts["status"], facts["model"]) == ("2", "completed", "writer")
    first, second = scripted.bodies
    assert [tool["function"]["name"] for tool in first["tools"]] == ["text_statistics", "repeated_phrases"]
    assistant, *results = second["messages"][len(first["messages"]) :]
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_a", "call_b"]
    assert [(r["role"], r["tool_call_id"], json.loads(r["content"])) for r in results] == [
        ("tool", "call_a", {"zi": 2}),
        ("tool", "call_b", {"zi": 4}),
    ]


async def test_usage_that_the_server_does_not_count_is_marked(scripted: Scripted) -> None:
    answer = await scripted.lab(chat("夜雨落在瓦上。")).ask(request())
    assert answer.metadata.extra["tokens_estimated"] == "true"
    assert answer.stats.tokens_used > 0


async def test_an_answer_that_stops_in_the_middle_of_a_word_is_kept_and_failed(scripted: Scripted) -> None:
    answer = await scripted.lab(opening("夜雨落在", Pause(0.1), Cut("fin"))).ask(request())
    assert (answer.status, answer.output) == ("failed", "夜雨落在")
    assert answer.response_status.details == "MODEL_STREAM_CUT"
    assert answer.stats.retry_count == 0


async def test_an_answer_of_nothing_fails_after_its_retries(scripted: Scripted) -> None:
    nothing = Reply((Role(), Finish("stop"), Done()))
    answer = await scripted.lab(nothing).ask(request(options={"max_retries": 2}))
    assert (answer.status, answer.output, answer.stats.retry_count) == ("failed", "", 2)
    assert answer.response_status.details == "MODEL_ANSWER_EMPTY"
    assert "模型的回答是空的" in answer.response_status.message
    assert len(scripted.bodies) == 3


EMPTY = chat("", usage=Counts(prompt=1000, completion=5), usage_in="own")
"""Paid, and nothing in it."""


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("reply", [error(429, "slow down"), error(500, "boom"), EMPTY], ids=["busy", "failed", "empty"])
async def test_max_retries_bounds_the_requests_upstream_whoever_makes_them(
    scripted: Scripted, reply: Reply, attempts: int
) -> None:
    for most in (1, 3):
        before = len(scripted.bodies)
        answer = await scripted.lab(reply, attempts=attempts).ask(request(options={"max_retries": most}))
        assert (answer.status, answer.stats.retry_count) == ("failed", most)
        assert len(scripted.bodies) - before == most + 1


@pytest.mark.parametrize("attempts", [1, 3])
async def test_empty_answers_are_paid_and_counted(scripted: Scripted, attempts: int) -> None:
    good = chat("好。", usage=Counts(prompt=1000, completion=1), usage_in="own")
    answer = await scripted.lab([EMPTY, EMPTY, good], attempts=attempts).ask(request())
    assert (answer.status, answer.output, answer.stats.retry_count) == ("completed", "好。", 2)
    assert (answer.stats.tokens_used, answer.metadata.extra["tokens_estimated"]) == (3011, "false")
    answer = await scripted.lab(EMPTY, attempts=attempts).ask(request(options={"max_retries": 1}))
    assert (answer.status, answer.response_status.details) == ("failed", "MODEL_ANSWER_EMPTY")
    assert (answer.stats.tokens_used, answer.stats.retry_count) == (2010, 1)


async def test_an_empty_answer_that_was_thought_about_is_paid_and_counted(scripted: Scripted) -> None:
    thought = chat("", reasoning="想很久", usage=Counts(prompt=1000, completion=500), usage_in="own")
    answer = await scripted.lab(thought, attempts=3).ask(request(options={"max_retries": 1}))
    assert (answer.stats.tokens_used, answer.stats.retry_count, len(scripted.bodies)) == (3000, 1, 2)


async def test_a_model_that_stands_in_has_a_request_kept_for_it(scripted: Scripted) -> None:
    lab = scripted.lab(error(503, "busy"), stands_in=chat("好。", usage=USAGE), attempts=3)
    answer = await lab.ask(request(options={"max_retries": 1}))
    assert (answer.status, answer.output, answer.stats.retry_count) == ("completed", "好。", 1)
    assert [body["model"] for body in scripted.bodies] == ["novel-1", "novel-2"]


async def test_the_rest_of_a_long_text_is_no_retry(scripted: Scripted) -> None:
    replies = [
        chat("夜雨落在瓦上，", finish="length", usage=USAGE),
        error(500, "boom"),
        chat("他推开门。", usage=USAGE),
    ]
    answer = await scripted.lab(replies, request_tokens=64, attempts=3).ask(request(options={"max_retries": 1}))
    assert (answer.output, answer.stats.retry_count, answer.stats.tokens_used) == ("夜雨落在瓦上，他推开门。", 1, 256)


async def test_a_server_that_fails_once_is_asked_again(scripted: Scripted) -> None:
    answer = await scripted.lab([error(500, "boom"), chat("好。", usage=USAGE)]).ask(request())
    assert (answer.status, answer.output, answer.stats.retry_count, answer.stats.tokens_used) == (
        "completed",
        "好。",
        1,
        128,
    )


async def test_a_server_that_refuses_the_length_says_so(scripted: Scripted) -> None:
    refusal = error(400, "maximum context length is 8192 tokens", code="context_length_exceeded")
    answer = await scripted.lab(refusal).ask(request(context={"前文": "雨" * 100_000}))
    assert (answer.status, answer.response_status.details) == ("failed", "MODEL_CONTEXT_TOO_LONG")
    assert "请缩短" in answer.response_status.message


@pytest.mark.parametrize(
    "words",
    [
        "registry.example/library/writer:latest does not support tools",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    ],
    ids=["ollama", "vllm"],
)
async def test_a_server_that_takes_no_tools_is_told_from_others_and_answers_without_them(
    scripted: Scripted, words: str
) -> None:
    lab = scripted.lab([error(400, words), chat("雨停了。")], tools())
    [end] = await lab.stream(request(tools=["text_statistics"]))
    facts = end.metadata
    assert (facts["status"], facts["reason"], facts["tool_calls_count"]) == ("failed", "MODEL_REFUSED_REQUEST", "0")
    assert text_of(await lab.stream(request())) == "雨停了。"
    assert ["tools" in body for body in scripted.bodies] == [True, False]


async def test_a_silent_server_ends_at_the_timeout_of_the_request(scripted: Scripted) -> None:
    lab = scripted.lab(opening("夜雨", Stall()))
    answer = await lab.ask(request(options={"timeout_seconds": 1}))
    assert (answer.status, answer.output) == ("timeout", "夜雨")
    assert answer.metadata.extra["finish_reason"] == "cut"


async def test_a_broken_tool_call_and_an_unknown_tool_go_back(scripted: Scripted) -> None:
    replies = [
        tool_calls(("a", "text_statistics", '{"text": "夜')),
        tool_calls(("b", "rm_rf", "{}")),
        chat("那就直接写。"),
    ]
    answer = await scripted.lab(replies, tools()).ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output) == ("completed", "那就直接写。")
    assert [c.status.code for c in answer.tool_calls] == [3, 5]
    last = scripted.bodies[-1]["messages"]
    assert all(json.loads(c["function"]["arguments"]) == {} for m in last for c in m.get("tool_calls", ()))


async def test_a_model_that_calls_tools_for_ever_is_stopped(scripted: Scripted) -> None:
    answer = await scripted.lab(tool_calls(("a", "text_statistics", "{}")), tools()).ask(
        request(tools=["text_statistics"])
    )
    assert (answer.status, answer.response_status.details) == ("failed", "AGENT_NO_ANSWER")
    assert len(scripted.bodies) == 8
    assert "tools" not in scripted.bodies[-1]


async def test_a_long_text_with_tools_goes_on_after_the_servers_limit(scripted: Scripted) -> None:
    replies = [
        chat("夜雨落在瓦上，", finish="length", usage=USAGE),
        chat("他推开门，", finish="length", usage=USAGE),
        chat("看见灯。", usage=USAGE),
    ]
    lab = scripted.lab(replies, tools(), request_tokens=64)
    answer = await lab.ask(request(tools=["text_statistics"]))
    assert (answer.status, answer.output) == ("completed", "夜雨落在瓦上，他推开门，看见灯。")
    assert answer.stats.tokens_used == 3 * 128


async def test_json_with_one_repair(scripted: Scripted) -> None:
    right = '{"score": 80, "verdict": "小改", "summary": "稳"}'
    answer = await scripted.lab([chat('{"score": 80}', usage=USAGE), chat(f"```json\n{right}\n```", usage=USAGE)]).ask(
        request("review", context={"format": "json"})
    )
    assert answer.status == "completed"
    assert json.loads(answer.output) == json.loads(right) | {"strengths": [], "issues": []}
    assert answer.stats.tokens_used == 256
    roles = [message["role"] for message in scripted.bodies[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


async def test_a_text_that_was_begun_is_gone_on_with(scripted: Scripted) -> None:
    whole = await scripted.lab(chat("夜雨落在瓦上，他推开门。")).stream(request())
    said = whole[: len(whole) // 2]
    rest = await scripted.lab(chat(text_of(whole)[len(text_of(said)) :])).stream(request(), new_call(said=said))
    assert text_of([*said, *rest]) == text_of(whole)
    messages = scripted.bodies[-1]["messages"]
    assert (messages[-2]["role"], messages[-2]["content"]) == ("assistant", text_of(said))


async def test_leaving_closes_the_socket(scripted: Scripted) -> None:
    stream = scripted.lab(opening("夜雨", Stall())).service.execute_stream(new_call(), request())
    await anext(stream)
    await stream.aclose()
