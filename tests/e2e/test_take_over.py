"""A chat worker dies while its model speaks: another gives the text back to the model, and it goes on."""

from __future__ import annotations

import threading

import grpc
import pytest

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e.callers import FAST, new_id
from tests.running import System
from tests.upstream.process import Upstream
from tests.upstream.replies import chat, opening
from tests.upstream.script import Counts, Stall
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

BEGUN = "雨停了。林黛玉推开窗，看见天边"
REST = "有一道虹。宝玉说：“妹妹，你看。”"


@pytest.mark.parametrize("repeated", ["", "看见天边"], ids=["clean", "with a repeated seam"])
def test_text_goes_on_and_is_remembered_as_one_turn(repeated: str) -> None:
    with Upstream() as upstream:
        settings = {
            **FAST,
            "QINGYU_LLM__BASE_URL": upstream.base_url,
            "QINGYU_LLM__MODEL": "novel",
            "QINGYU_LLM__API_KEY": "none",
        }
        with System("services.chat", settings=settings) as system, grpc.insecure_channel(system.target) as channel:
            stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
            upstream.script(
                "novel", [opening(BEGUN, Stall()), chat(repeated + REST, usage=Counts(20, 9)), chat("好。")]
            )
            session, reader = new_id(), Reader(stub)
            reader.request.session_id = session
            reader.start()
            eventually_sync(lambda: reader.text == BEGUN)
            system.workers[0].kill()
            system.workers[0].start()
            reader.join()
            assert (reader.text, reader.finals) == (BEGUN + REST, 1)
            _, second = upstream.seen()
            assert second.body["messages"][:2] == [
                {"role": "user", "content": "写一句"},
                {"role": "assistant", "content": BEGUN},
            ]

            system.wait_ready()  # it may have taken the call over before the bridge has seen it
            again = Reader(stub)
            again.request.session_id = session
            again.run()
            assert [m["content"] for m in upstream.seen()[-1].body["messages"]] == ["写一句", BEGUN + REST, "写一句"]


class Reader(threading.Thread):
    """Reads one stream."""

    def __init__(self, stub: ai_agent_pb2_grpc.AIAgentServiceStub) -> None:
        super().__init__(daemon=True)
        self.stub = stub
        metadata = common.Metadata(request_id=new_id(), user_id="e2e")
        self.request = ai.ChatRequest(messages=[common.Message(role="user", content="写一句")], metadata=metadata)
        self.text = ""
        self.finals = 0

    def run(self) -> None:
        for chunk in self.stub.ChatStream(self.request, timeout=40):
            self.text += chunk.delta
            self.finals += chunk.is_final
