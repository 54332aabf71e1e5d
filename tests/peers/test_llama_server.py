"""The client at llama.cpp's server, with a model of random weights: a server that was not written for these tests.

Runs where TEST_LLAMA_SERVER holds a command that starts `llama-server` (docs/models.md).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from qingyu_ai.settings import ChatModel
from services.llm.chain import Chain
from services.llm.curl import Curls
from services.llm.faults import Upstream as Kind
from services.llm.faults import UpstreamFault
from services.llm.long import LongAnswer
from services.llm.meters import Meters
from services.llm.model import LENGTH, STOP, TOOL_CALLS, Model, Prompt, Tool, ToolCall, Turn
from services.llm.remote import RemoteModel
from services.llm.server import Server
from services.llm.vectors import Embedder
from tests.llm.conftest import Answer, ask
from tests.optional import require_peer
from tests.peers.llama_server import KEY, LlamaServer
from tests.peers.tiny_model import CALL, END, write
from tests.waiting import eventually

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("llama-server")]

CONTEXT = 4096

LONG_CONTEXT = 131_072
"""Takes a minute to fill."""

ENDLESS = {"ignore_eos": True}
"""In `extra_body`: the answer ends at a limit only."""

ASKED = Prompt((Turn("user", "雨停了吗？"),))


@dataclass
class Client:
    """The client, as a worker has it."""

    curls: Curls
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    meters: Meters = field(init=False)

    def __post_init__(self) -> None:
        self.meters = Meters(self.registry)

    def remote(self, at: LlamaServer, **more: Any) -> RemoteModel:
        settings = ChatModel(**{"base_url": at.base_url, "api_key": KEY, "attempts": 1, **more})
        return RemoteModel(Server("tiny", settings, self.curls), settings, self.meters)

    def long(self, at: LlamaServer, **more: Any) -> LongAnswer:
        model = self.remote(at, **more)
        return LongAnswer(Chain([model], self.meters), model.settings, self.meters)

    def continued(self) -> float:
        return self.registry.get_sample_value("qingyu_model_continued_total", {"model": "tiny"}) or 0.0


@pytest.fixture(scope="module")
def command() -> list[str]:
    return require_peer("TEST_LLAMA_SERVER")


@pytest.fixture(scope="module")
def model_file(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write(path)
    return path


@pytest.fixture(scope="module")
def server(command: list[str], model_file: Path) -> Iterator[LlamaServer]:
    with LlamaServer(command, model_file, model_file.parent, CONTEXT) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    curls = Curls()
    yield Client(curls)
    assert curls.open == 0, "a transfer was left behind"
    curls.close()


async def failed(model: Model, prompt: Prompt = ASKED, into: Answer | None = None) -> UpstreamFault:
    with pytest.raises(UpstreamFault) as fault:
        await ask(model, prompt, into=into)
    return fault.value


# What is said.


async def test_a_streamed_answer_has_text_usage_and_an_end(client: Client, server: LlamaServer) -> None:
    answer = await ask(client.remote(server))
    assert answer.last.finish == STOP
    assert answer.last.model == "tiny"
    assert answer.last.usage is not None
    assert not answer.last.usage.estimated
    assert answer.last.usage.prompt_tokens > 5
    # Each of its tokens is one character, and the end is one too.
    assert answer.last.usage.completion_tokens == len(answer.text) + 1


async def test_an_answer_that_does_not_stream_is_read_too(client: Client, server: LlamaServer) -> None:
    answer = await ask(client.remote(server, stream_usage=False, extra_body={"stream": False}))
    assert answer.last.finish == STOP
    assert answer.last.usage is not None
    assert (answer.last.usage.completion_tokens, answer.last.usage.estimated) == (len(answer.text) + 1, False)


async def test_the_model_is_found_where_none_is_named(client: Client, server: LlamaServer, model_file: Path) -> None:
    with capture_logs() as logs:
        await ask(client.remote(server))
    assert [log["model"] for log in logs if log["event"] == "model_chosen"] == [str(model_file)]


async def test_max_tokens_ends_an_answer(client: Client, server: LlamaServer) -> None:
    prompt = Prompt(ASKED.turns, max_tokens=12)
    answer = await ask(client.remote(server, extra_body=ENDLESS), prompt)
    assert (answer.last.finish, len(answer.text)) == (LENGTH, 12)
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 12


async def test_a_conversation_with_a_system_prompt_is_taken(client: Client, server: LlamaServer) -> None:
    turns = (
        Turn("system", "你是编辑。"),
        Turn("user", "雨停了吗？"),
        Turn("assistant", "停了。"),
        Turn("user", "灯呢？😀"),
    )
    answer = await ask(client.remote(server), Prompt(turns, temperature=0.5))
    assert answer.text


@pytest.mark.parametrize("continuation", ["turn", "continue_final_message"])
async def test_a_long_answer_goes_on_over_several_requests(
    client: Client, server: LlamaServer, continuation: str
) -> None:
    prompt = Prompt(ASKED.turns, max_tokens=120)
    answer = await ask(client.long(server, request_tokens=32, continuation=continuation, extra_body=ENDLESS), prompt)
    assert (answer.last.finish, len(answer.text)) == (LENGTH, 120)
    assert [delta for delta in answer.deltas if delta.finish] == [answer.last]
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 120
    assert client.continued() == 3


async def test_an_answer_that_is_continued_is_the_one_that_a_single_request_gives(
    client: Client, server: LlamaServer
) -> None:
    prompt = Prompt(ASKED.turns, max_tokens=80, temperature=0)
    more = {"continuation": "continue_final_message", "extra_body": {**ENDLESS, "repeat_penalty": 2.0}}
    whole = await ask(client.long(server, **more), prompt)
    assert (await ask(client.long(server, request_tokens=32, **more), prompt)).text == whole.text


async def test_tools_are_called_and_their_results_are_taken(client: Client, server: LlamaServer) -> None:
    parameters = {"type": "object", "properties": {"text": {"enum": ["雨停了"]}}, "required": ["text"]}
    tools = (Tool("statistics", "数字数", parameters),)
    call_once = {"tool_choice": "required", "parallel_tool_calls": False, "logit_bias": [[CALL, 100], [END, 200]]}
    answer = await ask(client.remote(server, extra_body=call_once), Prompt(ASKED.turns, tools=tools, max_tokens=1000))
    pieces = [piece for delta in answer.deltas for piece in delta.tool_calls]
    assert answer.last.finish == TOOL_CALLS
    assert {piece.index for piece in pieces} == {0}
    assert [piece.name for piece in pieces if piece.name] == ["statistics"]
    arguments = "".join(piece.arguments for piece in pieces)
    assert json.loads(arguments) == {"text": "雨停了"}
    called = Turn("assistant", "", (ToolCall(pieces[0].id, "statistics", arguments),))
    turns = (*ASKED.turns, called, Turn("tool", '{"汉字": 3}', tool_call_id=pieces[0].id))
    answer = await ask(client.remote(server, extra_body={"tool_choice": "none"}), Prompt(turns, tools=tools))
    assert (answer.last.finish, bool(answer.text)) == (STOP, True)


# What goes wrong.


async def test_a_prompt_that_is_too_long_is_told_as_such(client: Client, server: LlamaServer) -> None:
    fault = await failed(client.remote(server), Prompt((Turn("user", "雨" * CONTEXT),)))
    assert fault.kind is Kind.CONTEXT_TOO_LONG


async def test_an_answer_ends_where_the_context_is_full(client: Client, command: list[str], model_file: Path) -> None:
    with LlamaServer(command, model_file, model_file.parent, 256) as small:
        answer = await ask(client.long(small, extra_body=ENDLESS))
    assert answer.last.finish == LENGTH
    assert answer.last.usage is not None
    assert 100 < len(answer.text) == answer.last.usage.completion_tokens < 256


@pytest.mark.parametrize("wrong", [{"temperature": "hot"}, {"messages": "雨"}, {"grammar": "root := (("}])
async def test_a_request_that_it_does_not_take_is_refused(
    client: Client, server: LlamaServer, wrong: dict[str, Any]
) -> None:
    fault = await failed(client.remote(server, extra_body=wrong))
    assert fault.kind is Kind.REFUSED_REQUEST


async def test_a_wrong_key_is_refused(client: Client, server: LlamaServer) -> None:
    fault = await failed(client.remote(server, api_key="sk-another-0123456789"))
    assert fault.kind is Kind.KEY_REFUSED


async def test_what_it_does_not_offer_is_not_available(client: Client, server: LlamaServer) -> None:
    model = client.remote(server, attempts=3)
    began = time.monotonic()
    with pytest.raises(UpstreamFault) as fault:
        await Embedder(model.server, client.meters).embed(["雨停了"])
    assert fault.value.kind is Kind.NOT_AVAILABLE
    assert time.monotonic() - began < 0.2  # it was not asked again


async def test_an_answer_is_cut_when_the_server_dies(client: Client, command: list[str], model_file: Path) -> None:
    answer = Answer()
    with LlamaServer(command, model_file, model_file.parent, CONTEXT) as mortal:
        model = client.remote(mortal, extra_body=ENDLESS)
        asking = asyncio.create_task(failed(model, into=answer))
        await eventually(lambda: len(answer.text) > 50)
        mortal.kill()
        fault = await asking
        assert (fault.kind, fault.after_text) == (Kind.STREAM_CUT, True)
        assert (await failed(model)).kind is Kind.UNREACHABLE


# Leaving early. The server looks for readers who have left when it has a token for them, and else once in a second, but only in a
# second in which it has nothing to say to anybody: so nothing may ask it meanwhile, and its log tells.


@pytest.fixture
def fresh(command: list[str], model_file: Path) -> Iterator[LlamaServer]:
    with LlamaServer(command, model_file, model_file.parent, LONG_CONTEXT) as running:
        yield running


async def test_a_reader_who_leaves_stops_the_server(client: Client, fresh: LlamaServer) -> None:
    async with aclosing(client.remote(fresh, extra_body=ENDLESS).stream(ASKED)) as deltas:
        async for _ in deltas:
            if fresh.begun:
                break
    assert connections(fresh) == 0
    await eventually(lambda: fresh.ended)
    assert fresh.ended[0] < LONG_CONTEXT // 2


async def test_a_caller_who_is_cancelled_before_the_first_token_stops_the_server(
    client: Client, fresh: LlamaServer
) -> None:
    prompt = Prompt((Turn("user", "雨" * (LONG_CONTEXT // 3 - 100)),))
    asking = asyncio.create_task(ask(client.remote(fresh), prompt))
    await eventually(lambda: fresh.begun)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert connections(fresh) == 0
    await eventually(lambda: fresh.ended, 30.0)
    assert fresh.ended[0] < LONG_CONTEXT - 400  # it has not even read the prompt


async def test_a_caller_who_is_cancelled_in_the_queue_is_not_answered(client: Client, fresh: LlamaServer) -> None:
    model = client.remote(fresh, extra_body=ENDLESS)
    async with aclosing(model.stream(ASKED)) as running:
        await anext(running)
        waiting = asyncio.create_task(ask(model))
        await eventually(lambda: fresh.metric("requests_deferred") == 1)
        assert connections(fresh) == 2
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert connections(fresh) == 1
        assert not fresh.ended
    await eventually(lambda: fresh.metric("requests_deferred") + fresh.metric("requests_processing") == 0)
    assert all(tokens < 100 for tokens in fresh.ended[1:])


def connections(server: LlamaServer) -> int:
    """How many this process has open at the server."""
    return sum(
        bool(one.raddr) and one.raddr.port == server.port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp4")
    )


# Vectors.


async def test_texts_become_vectors(client: Client, command: list[str], model_file: Path) -> None:
    more = ("--embeddings", "--pooling", "mean")
    texts = ["雨停了", "灯灭了", "Anna left."]
    with LlamaServer(command, model_file, model_file.parent, CONTEXT, *more) as running:
        server = client.remote(running).server
        vectors = await Embedder(server, client.meters).embed(texts)
        one_by_one = await Embedder(server, client.meters, batch=1).embed(texts)
    assert [len(vector) for vector in vectors] == [64, 64, 64]
    assert vectors[0] != vectors[1]
    for together, alone in zip(vectors, one_by_one, strict=True):
        assert together == pytest.approx(alone, abs=1e-3)
