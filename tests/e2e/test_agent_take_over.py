"""An agent worker is killed while its model speaks: another one goes on with the text, and no tool is called again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from qingyu_ai.process import EXIT_SETTINGS
from tests.agent.tool_process import FILE, SLOW
from tests.e2e.callers import FAST, new_id
from tests.running import ROOT, System, Worker
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, opening, tool_calls
from tests.upstream.script import Counts, Stall
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

BEGUN = "雨停了。沈舟推开门，看见河对岸"
REST = "有一点灯。他把船牌攥进手心。"


@pytest.mark.parametrize("unary", [False, True], ids=["stream", "unary"])
def test_a_killed_agent_is_gone_on_for(tmp_path: Path, unary: bool) -> None:
    made = tmp_path / "made"
    tools = Worker("tests.agent.tool_process", "tool", {FILE: str(made)})
    with Upstream() as upstream:
        settings = {
            **FAST,
            "QINGYU_LLM__BASE_URL": upstream.base_url,
            "QINGYU_LLM__MODEL": "novel",
            "QINGYU_LLM__API_KEY": "none",
        }
        with (
            System("services.agent", tools, settings=settings) as system,
            grpc.insecure_channel(system.target) as channel,
        ):
            upstream.script(
                "novel",
                [
                    tool_calls(("a", "text_statistics", '{"text": "夜雨"}'), usage=Counts(20, 9)),
                    opening(BEGUN, Stall()),
                    chat(REST, usage=Counts(50, 12)),
                ],
            )
            caller = Caller(ai_agent_pb2_grpc.AIAgentServiceStub(channel), unary=unary)
            caller.start()
            eventually_sync(lambda: len(upstream.seen()) == 2 and (unary or caller.text == BEGUN), timeout=20)
            if unary:  # nothing is shown before the end: the notes are on their way to the log
                threading.Event().wait(0.5)
            system.workers[0].kill()
            system.workers[0].start()
            caller.join()
            assert (caller.text, caller.status) == (BEGUN + REST, "completed")
            assert made.read_text(encoding="utf-8").splitlines() == ['{"text": "夜雨"}']
            assert (caller.tool_calls, caller.estimated) == (1, True)
            last = upstream.seen()[-1].body["messages"]
            assert [message["role"] for message in last[:5]] == ["system", "user", "assistant", "tool", "assistant"]
            assert (json.loads(last[3]["content"]), last[4]["content"]) == ({"zi": 2}, BEGUN)
            system.wait_ready()


def test_a_tool_that_ran_when_the_agent_was_killed_is_not_called_again(tmp_path: Path) -> None:
    made = tmp_path / "made"
    tools = Worker("tests.agent.tool_process", "tool", {FILE: str(made)})
    with Upstream() as upstream:
        settings = {**FAST, "QINGYU_LLM__BASE_URL": upstream.base_url, "QINGYU_LLM__MODEL": "novel"}
        with (
            System("services.agent", tools, settings=settings) as system,
            grpc.insecure_channel(system.target) as channel,
        ):
            upstream.script(
                "novel", [tool_calls(("a", "text_statistics", f'{{"text": "{SLOW}"}}')), chat("那就直接写。")]
            )
            caller = Caller(ai_agent_pb2_grpc.AIAgentServiceStub(channel), unary=False)
            caller.start()
            eventually_sync(made.exists, timeout=20)
            system.workers[0].kill()
            system.workers[0].start()
            caller.join()
            assert (caller.text, caller.status, caller.tool_calls) == ("那就直接写。", "completed", 1)
            assert len(made.read_text(encoding="utf-8").splitlines()) == 1
            told = upstream.seen()[-1].body["messages"][-1]
            assert (told["role"], told["content"].startswith("It is not known whether text_statistics")) == (
                "tool",
                True,
            )
            system.wait_ready()


class Caller(threading.Thread):
    """Makes one call."""

    def __init__(self, stub: ai_agent_pb2_grpc.AIAgentServiceStub, *, unary: bool) -> None:
        super().__init__(daemon=True)
        self.stub = stub
        self.unary = unary
        self.text = self.status = ""
        self.tool_calls = 0
        self.estimated = False
        self.request = ai.AgentRequest(
            agent_type="creative",
            task="续写",
            tools=["text_statistics"],
            metadata=common.Metadata(request_id=new_id(), user_id="e2e"),
        )

    def run(self) -> None:
        if self.unary:
            answer = self.stub.ExecuteAgent(self.request, timeout=40)
            self.text, self.status, self.tool_calls = answer.output, answer.status, len(answer.tool_calls)
            self.estimated = answer.metadata.extra["tokens_estimated"] == "true"
            return
        for chunk in self.stub.ExecuteAgentStream(self.request, timeout=40):
            if chunk.chunk_type == "text":
                self.text += chunk.delta
            self.tool_calls += chunk.chunk_type == "tool_end"
            if chunk.is_final:
                self.status = chunk.metadata["status"]
                self.estimated = chunk.metadata["tokens_estimated"] == "true"


def test_a_mistake_in_the_files_ends_the_worker_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_text("creative: {}\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "services.agent"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "QINGYU_AGENT__AGENTS_DIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        timeout=30,
    )
    assert ended.returncode == EXIT_SETTINGS
    assert (
        f"{tmp_path}/agents.yaml does not have outline, character, plot, review"
        in (ended.stdout + ended.stderr).decode()
    )
