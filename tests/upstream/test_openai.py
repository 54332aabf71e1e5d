"""The upstream speaks the protocol: the official client understands what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from tests.upstream.answers import vector
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, choices, error, html, opening, tool_calls
from tests.upstream.script import Counts, Cut, Event, Raw, Reply
from tests.waiting import eventually_sync

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "雨停了吗？👨‍👩‍👧"}]

LOOK: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "look", "parameters": {}}}


@pytest.fixture
def client(up: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    """The official client, without proxies and without attempts of its own."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with OpenAI(api_key="key-1", base_url=up.base_url, max_retries=0, timeout=10) as opened:
        yield opened


def stream(client: OpenAI, model: str = "m") -> list[ChatCompletionChunk]:
    return list(
        client.chat.completions.create(model=model, messages=ASKED, stream=True, stream_options={"include_usage": True})
    )


def text(chunks: list[ChatCompletionChunk], choice: int = 0) -> str:
    deltas = [c.delta for chunk in chunks for c in chunk.choices if c.index == choice]
    return "".join(delta.content or "" for delta in deltas)


def test_a_model_without_a_script_echoes(client: OpenAI, up: Upstream) -> None:
    chunks = stream(client, "nobody-knows")
    assert text(chunks) == ASKED[0].get("content")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].model == "nobody-knows"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert up.seen()[0].headers["authorization"] == "Bearer key-1"


@pytest.mark.parametrize("split", [0, 1, 5])
def test_a_stream_is_read_whole_however_it_is_split(client: OpenAI, up: Upstream, split: int) -> None:
    up.script("m", chat("雨停了。", usage=Counts(5, 4, reasoning=1), finish="length").but(split=split))
    chunks = stream(client)
    assert text(chunks) == "雨停了。"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["length"]
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 4, 9)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 1


@pytest.mark.parametrize("eol", ["\r\n", "\r", "\n"])
def test_comments_and_other_line_ends_are_read(client: OpenAI, up: Upstream, eol: str) -> None:
    said = chat("雨停了。").but(eol=eol)
    ping = Raw(f": ping{eol}{eol}".encode())
    up.script("m", said.but(steps=(ping, *said.steps[:2], ping, *said.steps[2:])))
    assert text(stream(client)) == "雨停了。"


def test_a_plain_completion_is_what_the_stream_adds_up_to(client: OpenAI, up: Upstream) -> None:
    up.script("m", chat("雨停了。", reasoning="看看天", usage=Counts(5, 4)))
    answer = client.chat.completions.create(model="m", messages=ASKED)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("雨停了。", "stop")
    assert choice.message.to_dict()["reasoning_content"] == "看看天"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 9


def test_several_choices_are_told_apart(client: OpenAI, up: Upstream) -> None:
    up.script("m", choices("雨停了", "还在下"))
    chunks = stream(client)
    assert (text(chunks, 0), text(chunks, 1)) == ("雨停了", "还在下")
    answer = client.chat.completions.create(model="m", messages=ASKED, n=2)
    assert [choice.message.content for choice in answer.choices] == ["雨停了", "还在下"]


def test_tool_calls_are_put_together_from_their_deltas(client: OpenAI, up: Upstream) -> None:
    first, second = json.dumps({"where": "窗外"}), json.dumps({"where": "门口", "far": True})
    up.script("m", tool_calls(("call-1", "look", first), ("call-2", "look", second), text="我看看"))
    with client.chat.completions.stream(model="m", messages=ASKED, tools=[LOOK]) as streamed:
        final = streamed.get_final_completion().choices[0]
    plain = client.chat.completions.create(model="m", messages=ASKED, tools=[LOOK]).choices[0]
    for choice in (final, plain):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "我看看"
        calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
        assert [(call.id, call.function.name) for call in calls] == [("call-1", "look"), ("call-2", "look")]
        assert [call.function.arguments for call in calls] == [first, second]


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_errors_are_those_of_the_protocol(
    client: OpenAI, up: Upstream, status: int, raised: type[openai.APIStatusError]
) -> None:
    up.script("m", error(status, "no", code="why", type="kind", headers={"retry-after": "3"}))
    with pytest.raises(raised) as caught:
        stream(client)
    assert (caught.value.code, caught.value.type) == ("why", "kind")
    assert caught.value.response.headers["retry-after"] == "3"
    assert len(up.seen()) == 1


def test_an_error_page_and_an_error_in_a_stream_are_errors(client: OpenAI, up: Upstream) -> None:
    up.script("m", [html(502), opening("雨", Event({"error": {"message": "overloaded"}}))])
    with pytest.raises(openai.InternalServerError):
        stream(client)
    with pytest.raises(openai.APIError, match="overloaded"):
        stream(client)


def test_a_stream_that_is_cut_or_broken_is_no_answer(client: OpenAI, up: Upstream) -> None:
    up.script("m", [opening("雨停", Cut("fin")), Reply((Raw(b"data: {broken\n\n"),))])
    with pytest.raises(openai.APIConnectionError):
        stream(client)
    with pytest.raises(json.JSONDecodeError):
        stream(client)


def test_a_client_that_leaves_a_stream_is_seen_to_leave(client: OpenAI, up: Upstream) -> None:
    up.script("m", chat("雨" * 100).but(pace=50))
    with client.chat.completions.create(model="m", messages=ASKED, stream=True) as streamed:
        next(iter(streamed))
    eventually_sync(lambda: [seen.ended for seen in up.seen()] == ["client_closed"])


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_depend_on_the_text_alone(client: OpenAI, up: Upstream, encoding: str) -> None:
    texts = ["雨停了", "雪", "雨停了"]
    if encoding == "float":
        answer = client.embeddings.create(model="e", input=texts, dimensions=8, encoding_format="float")
    else:
        answer = client.embeddings.create(model="e", input=texts, dimensions=8)  # its default is base64
        assert up.seen()[0].body["encoding_format"] == "base64"
    vectors = [one.embedding for one in answer.data]
    assert vectors[0] == vectors[2] == pytest.approx(vector("雨停了", 8))
    assert vectors[1] == pytest.approx(vector("雪", 8))
    assert vectors[0] != vectors[1]
    assert len(client.embeddings.create(model="e", input="雨").data[0].embedding) == 64


def test_models_are_listed_and_a_path_has_a_script_of_its_own(client: OpenAI, up: Upstream) -> None:
    up.script("vendor/novel-1", chat("好"))
    assert [model.id for model in client.models.list()] == ["echo", "vendor/novel-1"]
    up.script("/v1/models", error(401, "no such key"))
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
