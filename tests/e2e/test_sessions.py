"""What the chat service remembers when its processes die."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e.callers import FAST, new_id, say
from tests.running import System

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

SETTINGS = {**FAST, "QINGYU_OFFLINE__DELTAS_PER_SECOND": "0", "QINGYU_OFFLINE__FIRST_DELAY_SECONDS": "0"}

FIRST = "我叫沈砚，怀里揣着一盏青铜小灯。雨是后半夜停的，河面上浮着一层薄雾。"
SECOND = "我叫什么名字？"


def test_session_is_remembered_by_another_worker_when_its_first_one_is_killed() -> None:
    """However short after the answer: a turn that the dead worker had not stored yet is stored by whoever comes next."""
    with System("services.chat", settings=SETTINGS) as system, grpc.insecure_channel(system.target) as channel:
        stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
        fresh = prompt_tokens(stub, "fresh", SECOND)
        sessions = [f"session-{i}" for i in range(10)]
        with ThreadPoolExecutor(10) as callers:
            firsts = list(callers.map(lambda session: prompt_tokens(stub, session, FIRST), sessions))
        system.workers[0].kill()
        system.add_worker("services.chat")
        system.wait_ready()
        seconds = [prompt_tokens(stub, session, SECOND) for session in sessions]
        say(f"a prompt of {fresh} tokens in a fresh session, of {seconds} in sessions that began with {firsts}")
        assert set(seconds) == {seconds[0]}
        assert seconds[0] > fresh + firsts[0]
        assert prompt_tokens(stub, "another", SECOND) == fresh


def prompt_tokens(stub: ai_agent_pb2_grpc.AIAgentServiceStub, session: str, question: str) -> int:
    """Have one turn of a session, and return the size of its prompt."""
    request = ai.ChatRequest(
        session_id=session,
        messages=[common.Message(role="user", content=question)],
        metadata=common.Metadata(request_id=new_id(), user_id="e2e"),
    )
    call = stub.ChatStream(request, timeout=20)
    *_, last = call
    assert last.is_final
    return int(dict(call.trailing_metadata())["x-usage-prompt"])
