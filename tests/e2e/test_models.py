"""A real model behind the whole system: a scripted upstream in its own process, reached through bridge, NATS and worker."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge.handlers import DETAILS_KEY
from qingyu_ai.bus.errors import Fault
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e.callers import new_id
from tests.ports import free_port
from tests.running import System
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, error, opening
from tests.upstream.script import Counts, Cut, Endless, Pause, Text
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("models")]

KEY = "sk-e2e-0123456789abcdef"
TEXT = "雨停了。林黛玉推开窗，看见天边有一道虹。"

CONFIG = """
llm:
  default: writer
  words_file: {words}
  models:
    writer: {{base_url: "{url}", model: novel-1, api_key_env: NOVEL_KEY, fallbacks: [spare], attempts: 2}}
    spare: {{base_url: "{url}", model: novel-2, api_key_env: NOVEL_KEY, context_tokens: 400}}
"""


@dataclass
class Novel:
    """A system on a scripted upstream."""

    system: System
    upstream: Upstream
    stub: ai_agent_pb2_grpc.AIAgentServiceStub
    metrics_port: int

    def request(self, text: str = "写一句", **more: Any) -> ai.ChatRequest:
        metadata = common.Metadata(request_id=new_id(), user_id="e2e")
        return ai.ChatRequest(messages=[common.Message(role="user", content=text)], metadata=metadata, **more)

    def stream(self, **more: Any) -> tuple[str, dict[str, Any]]:
        call = self.stub.ChatStream(self.request(**more), timeout=20)
        text = "".join(chunk.delta for chunk in call)
        return text, dict(call.trailing_metadata())

    def failure(self, **more: Any) -> tuple[str, Fault]:
        call = self.stub.ChatStream(self.request(**more), timeout=20)
        text = ""
        try:
            for chunk in call:
                text += chunk.delta
        except grpc.RpcError:
            pass
        else:
            raise AssertionError(f"it did not fail, and said {text!r}")
        encoded = dict(call.trailing_metadata())[DETAILS_KEY]
        assert isinstance(encoded, bytes)
        return text, Fault.from_status(encoded)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Novel]:
    folder = tmp_path_factory.mktemp("models")
    words = folder / "words.txt"
    words.write_text("违禁词\n", encoding="utf-8")
    metrics_port = free_port()
    with Upstream() as upstream:
        config = folder / "qingyu.yaml"
        config.write_text(CONFIG.format(url=upstream.base_url, words=words), encoding="utf-8")
        settings = {"QINGYU_CONFIG": str(config), "NOVEL_KEY": KEY, "QINGYU_CHAT__METRICS_PORT": str(metrics_port)}
        with (
            System("services.chat", settings=settings) as system,
            grpc.insecure_channel(system.target) as channel,
        ):
            yield Novel(system, upstream, ai_agent_pb2_grpc.AIAgentServiceStub(channel), metrics_port)
            for process in (*system.bridges, *system.workers):
                assert KEY not in process.log


@pytest.fixture
def novel(running: Novel) -> Novel:
    running.upstream.reset()
    return running


def test_model_speaks_and_the_answer_says_which_and_what_it_cost(novel: Novel) -> None:
    novel.upstream.script("novel-1", chat(TEXT, usage=Counts(12, 34)))
    text, trailers = novel.stream(temperature=0.5, max_tokens=300)
    assert text == TEXT
    assert {name: trailers[name] for name in trailers if name.startswith("x-") and name != "x-request-id"} == {
        "x-model": "writer",
        "x-finish-reason": "stop",
        "x-usage-prompt": "12",
        "x-usage-completion": "34",
        "x-usage-reasoning": "0",
        "x-usage-estimated": "false",
    }
    [seen] = novel.upstream.seen()
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert (seen.body["temperature"], seen.body["max_tokens"]) == (0.5, 300)
    assert novel.system.bridges[0].health().details["model"] == "writer"


def test_request_names_its_model_by_alias(novel: Novel) -> None:
    novel.upstream.script("novel-2", chat(TEXT))
    assert novel.stream(model="spare")[1]["x-model"] == "spare"
    assert novel.stream(model="offline")[1]["x-model"] == "offline"
    _, fault = novel.failure(model="no such")
    assert (fault.reason, fault.facts["code"]) == ("MODEL_NOT_AVAILABLE", "5004")
    assert "offline, spare, writer" in fault.message


def test_fallback_answers_and_is_named(novel: Novel) -> None:
    novel.upstream.script("novel-1", error(401, f"Incorrect API key provided: {KEY}"))
    novel.upstream.script("novel-2", chat(TEXT))
    text, trailers = novel.stream()
    assert (text, trailers["x-model"]) == (TEXT, "spare")
    # What went wrong can be found by the call's id.
    told = [line for line in novel.system.workers[0].log.splitlines() if trailers["x-request-id"] in line]
    assert any('"model_failed"' in line and "KEY_REFUSED" in line for line in told)


def test_stream_that_its_upstream_cuts_keeps_its_text_and_ends_with_an_error(novel: Novel) -> None:
    novel.upstream.script("novel-1", opening(TEXT, Pause(0.1), Cut("rst")))
    text, fault = novel.failure()
    assert (text, fault.reason) == (TEXT, "MODEL_STREAM_CUT")
    assert fault.chinese


def test_answer_in_one_piece_that_is_cut_comes_as_far_as_it_goes_and_says_so(novel: Novel) -> None:
    novel.upstream.script("novel-1", opening(TEXT, Pause(0.1), Cut("rst")))
    answer, call = novel.stub.Chat.with_call(novel.request(), timeout=20)
    assert answer.message.content == TEXT
    assert answer.message.metadata["finish_reason"] == "cut"
    assert answer.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert "cut" in answer.status.message
    assert dict(call.trailing_metadata())["x-finish-reason"] == "cut"


def test_cut_answer_is_remembered_as_cut(novel: Novel) -> None:
    novel.upstream.script("novel-1", [opening(TEXT, Pause(0.1), Cut("rst")), chat("好。")])
    session = new_id()
    novel.failure(session_id=session)
    novel.stream(session_id=session, text="继续")
    messages = novel.upstream.seen()[-1].body["messages"]
    assert [m["content"] for m in messages] == ["写一句", TEXT, "继续"]


def test_caller_who_leaves_closes_the_socket_to_the_model(novel: Novel) -> None:
    novel.upstream.script("novel-1", opening("雨", Endless(Text("雨"), every=0.01)))
    call = novel.stub.ChatStream(novel.request(), timeout=20)
    next(call)
    call.cancel()
    eventually_sync(lambda: novel.upstream.seen()[0].ended == "client_closed")


def test_deadline_reaches_the_socket_to_the_model(novel: Novel) -> None:
    novel.upstream.script("novel-1", opening("雨", Endless(Text("雨"), every=0.01)))
    call = novel.stub.ChatStream(novel.request(), timeout=1)
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually_sync(lambda: novel.upstream.seen()[0].ended == "client_closed")


def test_word_of_the_list_is_never_shown(novel: Novel) -> None:
    novel.upstream.script("novel-1", chat("此处有违禁词。", size=1))
    assert novel.stream()[0] == "此处有***。"


def test_history_is_cut_to_the_models_window(novel: Novel) -> None:
    novel.upstream.script("novel-2", chat("好。"))
    session = new_id()
    for i in range(6):
        novel.stream(model="spare", session_id=session, text=f"第{i}问：" + "雨" * 100)
    sizes = [len(seen.body["messages"]) for seen in novel.upstream.seen()]
    assert sizes[0] == 1
    assert sizes[-1] == sizes[-2] < 11
    assert novel.upstream.seen()[-1].body["messages"][-1]["content"].startswith("第5问")


def test_metrics_tell_tokens_times_and_errors(novel: Novel) -> None:
    novel.upstream.script("novel-1", [error(503, "busy"), chat(TEXT, usage=Counts(12, 34))])
    novel.stream()
    page = metrics(novel.metrics_port)
    assert page['qingyu_model_tokens_total{estimated="false",kind="completion",model="writer"}'] >= 34
    assert page['qingyu_model_errors_total{model="writer",reason="MODEL_FAILED"}'] >= 1
    assert page['qingyu_model_retries_total{model="writer"}'] >= 1
    assert page['qingyu_model_first_token_seconds_count{model="writer"}'] >= 1
    assert page['qingyu_model_open{model="writer"}'] == 0


def metrics(port: int) -> Mapping[str, float]:
    """A metrics page by sample."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_two_variables_are_enough(tmp_path: Path) -> None:
    with Upstream() as upstream:
        settings = {"QINGYU_LLM__BASE_URL": upstream.base_url, "QINGYU_LLM__API_KEY": KEY}
        with System("services.chat", settings=settings) as system, grpc.insecure_channel(system.target) as channel:
            novel = Novel(system, upstream, ai_agent_pb2_grpc.AIAgentServiceStub(channel), 0)
            text, trailers = novel.stream(text="雨停了吗？")
            assert (text, trailers["x-model"]) == ("雨停了吗？", "echo")
            assert KEY not in system.workers[0].log
            assert "model_chosen" in system.workers[0].log
