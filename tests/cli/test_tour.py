"""The example against a service that keeps its promises, and against one that breaks one of them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake_agent import AGENT_ANSWER, ANSWER, FakeAgent, serve
from tests.cli.fake_proxy import TEXT, FakeProxy
from tests.cli.fake_rag import FakeRag
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]

Tour = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tour() -> Iterator[Tour]:
    servers, proxies = [], []

    def take(fault: str, *, proxy: bool = False) -> subprocess.CompletedProcess[str]:
        server, port = serve(FakeAgent(fault))
        servers.append(server)
        if not proxy:
            return run(f"127.0.0.1:{port}")
        proxies.append(FakeProxy(fault))
        return run(f"127.0.0.1:{port}", "--proxy", proxies[-1].url)

    yield take
    for one in proxies:
        one.close()
    for server in servers:
        server.stop(grace=None).wait()


def run(target: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/tour.py", "--target", target, *more]
    env = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_tour_passes_and_shows_the_answers_with_what_they_cost(tour: Tour) -> None:
    result = tour("")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(ANSWER) == 3
    for key in ("x-usage-prompt", "x-usage-completion", "x-usage-estimated", "x-finish-reason", "x-model"):
        assert result.stdout.count(key) == 3
    assert "ms to the first chunk" in result.stdout
    assert "chat: 1 replica" in result.stdout


def test_the_tour_shows_what_an_agent_does_by_the_types_of_its_chunks(tour: Tour) -> None:
    result = tour("")
    said = result.stdout[result.stdout.index("五、") : result.stdout.index("六、")]
    lines = [line.split(maxsplit=3) for line in said.splitlines() if "  0.01 s  " in line]
    assert [kind for _, _, kind, *_ in lines] == ["reasoning", "tool_start", "tool_end", "text"]
    assert '  text_statistics {"text": "灯灯灯灯灯灯灯灯灯灯灯灯灯灯灯灯灯灯……（100 字）"}' in said
    assert '  text_statistics 3 毫秒 · ms → {"zi": 100, "lines": [0, 1, 2, "……90 项"]}' in said
    assert AGENT_ANSWER in said
    assert "final chunk: completed, 模型 · model: fake, stop" in said
    assert "30 + 12 (估算 · estimated)" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no tool called", "the model called no tool"),
        ("tools refused", "this model's server takes no tools; again without any"),
        ("tool fails", "failed: no text / 没有文字"),
    ],
)
def test_an_agent_whose_model_or_tool_is_in_the_way_still_answers_and_says_what_was(
    tour: Tour, fault: str, words: str
) -> None:
    result = tour(fault)
    assert result.returncode == 0, result.stderr
    assert words in result.stdout
    assert result.stdout.count(AGENT_ANSWER) == 2


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("unhealthy", "the system says it is 'unhealthy'"),
        ("unavailable", "UNAVAILABLE: no chat worker answers"),
        ("empty answer", "the answer is empty"),
        ("empty stream", "the answer is empty"),
        ("no final chunk", "the stream ended without a final chunk"),
        ("text after the end", "a chunk came after the final one"),
        ("another id", "the initial metadata does not return the request id"),
        ("no usage", "the metadata lacks x-usage-prompt"),
        ("no memory", "the history is not in it"),
        ("agent fails", "the agent ended failed"),
        ("agent never ends", "the stream ended without a final chunk"),
        ("agent says more", "a chunk came after the final one"),
        ("silent agent", "the answer is empty"),
        ("numbers that stand", "a chunk is numbered 0 after 0"),
        ("start without end", "tools that never ended: text_statistics"),
        ("end without start", "text_statistics ended and never started"),
        ("a document fails", "not all were stored: tour-"),
        ("another chapter", "灯灭之前, is not the first result"),
        ("no marks", "nothing is marked in a result of tour-"),
        ("nothing to delete", "not all chapters were there to be removed"),
    ],
)
def test_a_broken_promise_ends_the_tour_with_its_name(tour: Tour, fault: str, complaint: str) -> None:
    result = tour(fault)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_the_tour_reads_a_stream_on_that_was_cut_off_and_a_socket(tour: Tour) -> None:
    result = tour("", proxy=True)
    assert result.returncode == 0, result.stderr
    events, socket = result.stdout[result.stdout.index("九、") :].split("十、")
    assert f"{TEXT[:30]}⟦断线，续读 · cut off, and read on⟧{TEXT[30:]}" in events
    assert f"30 + {len(TEXT) - 30} 字 · characters, /api/v1/ai/calls/r1/stream" in events
    assert TEXT in socket
    assert f"{len(TEXT) + 1} 块 · chunks, r2" in socket


def test_the_tour_does_without_a_proxy_and_says_so(tour: Tour) -> None:
    assert "九、浏览器的流 · left out: 未指定 --proxy" in tour("").stdout


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("refused", "请先登录 · Say who you are (401)"),
        ("repeats", "what was read on has a gap or a repeat"),
        ("error in the middle", "the stream ended with an error: AI服务不可用 · The AI service is not available"),
        ("no final event", "the stream did not end with a final chunk and done"),
        ("no done", "the stream did not end with a final chunk and done"),
        ("socket drops", "the connection to http://127.0.0.1:"),
        ("empty socket", "the answer is empty"),
        ("error on the socket", "the stream ended with an error: AI服务不可用"),
        ("no final message", "the stream ended without a final chunk"),
    ],
)
def test_a_promise_that_the_proxy_breaks_ends_the_tour_with_its_name(tour: Tour, fault: str, complaint: str) -> None:
    result = tour(fault, proxy=True)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_a_proxy_that_is_not_there_is_named(tour: Tour) -> None:
    server, port = serve(FakeAgent())
    [nobody] = free_ports(1)
    try:
        result = run(f"127.0.0.1:{port}", "--proxy", f"http://127.0.0.1:{nobody}")
    finally:
        server.stop(grace=None).wait()
    assert result.returncode == 1
    assert f"the connection to http://127.0.0.1:{nobody} broke" in result.stderr


def test_the_tour_stores_a_novel_searches_it_and_leaves_nothing_behind(tour: Tour) -> None:
    result = tour("")
    said = result.stdout[result.stdout.index("六、") :]
    assert "7 of 7 stored" in said
    assert said.index("  0.50  第 1 章 灯灭之前\n        …⟦攥着一枚铜钱⟧…") < said.index("  0.50  第 5 章 灯油铺的账本")
    assert "tool search_knowledge" in said
    assert "DeleteDocument: 7 of 7" in said


def test_a_tour_that_breaks_off_removes_the_novel_too() -> None:
    rag = FakeRag("no marks")
    server, port = serve(FakeAgent(), rag=rag)
    try:
        assert run(f"127.0.0.1:{port}").returncode == 1
        assert rag.documents == {}
    finally:
        server.stop(grace=None).wait()


def test_the_tour_does_without_retrieval_where_there_is_none_and_says_so(tour: Tour) -> None:
    result = tour("no retrieval")
    assert result.returncode == 0, result.stderr
    assert "there is no retrieval here" in result.stdout
    assert "BatchIndex" not in result.stdout


def test_an_address_where_nobody_listens_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module: Any = importlib.import_module("tour")
    calling: Any = importlib.import_module("calling")
    [port] = free_ports(1)
    monkeypatch.setattr(calling, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(sys, "argv", ["tour.py", "--target", f"127.0.0.1:{port}"])
    assert module.main() == 1
    assert f"no connection to 127.0.0.1:{port}" in capsys.readouterr().err


def imported(module: Path) -> set[Path]:
    """The examples that an example is made of, itself too."""
    names = set(re.findall(r"^(?:import|from) (\w+)", module.read_text("utf-8"), re.MULTILINE))
    beside = {path for name in names if (path := module.with_name(f"{name}.py")).is_file()}
    return {module}.union(*map(imported, beside))


def test_all_that_the_tour_is_made_of_is_in_the_wheel_too() -> None:
    needed = imported(ROOT / "examples" / "tour.py") | set((ROOT / "examples" / "novel").iterdir())
    assert {"tour.py", "agent.py", "retrieval.py", "web.py", "chendengdu.txt"} <= {path.name for path in needed}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    for path in needed:
        name = path.relative_to(ROOT).as_posix()
        assert wheel["force-include"].get(name) == f"qingyu_ai/cli/{name}"
