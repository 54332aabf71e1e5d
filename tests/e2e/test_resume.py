"""A bridge dies in the middle of streams, and their callers go on at another one."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e.callers import FAST, OWN_CONNECTION, new_id
from tests.running import System
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

QUESTION = "请接着写：雨是后半夜停的。沈砚推开渡口的木门，河面上浮着一层薄雾。"


class Reader(threading.Thread):
    """Reads one stream, and keeps what came when its bridge dies."""

    def __init__(self, request: ai.ChatRequest) -> None:
        super().__init__()
        self.request = request
        self.text = ""
        self.finals = 0
        self.target = ""

    def run(self) -> None:
        metadata: Any = (("x-resume-from", str(len(self.text))),) if self.text else ()
        with grpc.insecure_channel(self.target, options=OWN_CONNECTION) as channel:
            try:
                stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
                for chunk in stub.ChatStream(self.request, timeout=40, metadata=metadata):
                    self.text += chunk.delta
                    self.finals += chunk.is_final
            except grpc.RpcError:
                pass

    def go_on(self, target: str) -> Reader:
        """The same reader at another bridge."""
        again = Reader(self.request)
        again.text, again.finals, again.target = self.text, self.finals, target
        again.start()
        return again


@pytest.mark.parametrize("worker_too", [False, True], ids=["bridge", "bridge and worker"])
def test_streams_of_a_killed_bridge_go_on_at_another_without_a_gap_or_a_repeat(worker_too: bool) -> None:
    """Also when their worker dies in the same instant.

    The offline model says the same to the same question, so what each reader must have in the end is known.
    """
    with System("services.chat", bridges=2, settings=FAST) as system:
        dying, living = system.bridges
        readers = [Reader(request()) for _ in range(10)]
        for reader in readers:
            reader.target = dying.target
            reader.start()
        eventually_sync(lambda: all(len(reader.text) > 10 for reader in readers))
        dying.kill()
        if worker_too:
            system.workers[0].kill()
            system.workers[0].start()
        for reader in readers:
            reader.join()
        assert not any(reader.finals for reader in readers)
        received = [len(reader.text) for reader in readers]
        again = [reader.go_on(living.target) for reader in readers]
        for reader in again:
            reader.join()
        whole = Reader(request())
        whole.target = living.target
        whole.run()
        assert {reader.text for reader in again} == {whole.text}
        assert [reader.finals for reader in again] == [1] * 10
        assert max(received) < len(whole.text)


def request() -> ai.ChatRequest:
    metadata = common.Metadata(request_id=new_id(), user_id="e2e")
    return ai.ChatRequest(messages=[common.Message(role="user", content=QUESTION)], metadata=metadata)
