"""A whole system under permissions and mutual TLS: each process as its own user, and no violation in the server's log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import trustme

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, control_pb2_grpc, rag_pb2_grpc, tool_pb2_grpc
from tests.certificates import Folder
from tests.doors.test_nats_tls import tls_block
from tests.e2e.callers import FAST, OWN_CONNECTION, new_id
from tests.e2e.test_resume import Reader
from tests.e2e.test_resume import request as novel
from tests.nats_cluster import NatsCluster
from tests.nats_guarded import GuardedNats, Streams, Users, violations
from tests.postgres import PostgresProcess
from tests.running import ROOT, System, Worker
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

SLOW_VOTES = {"QINGYU_BUS__LEASE_SECONDS": "20", "QINGYU_BUS__STORE_SECONDS": "4"}
"""As docs/architecture.md has it for a cluster."""

PASSAGE = "沈砚推开渡口的木门，河面上浮着一层薄雾。青铜小灯里的灯芯只剩豆大一点火。"


def secured(folder: Path) -> GuardedNats:
    """A server with users that asks for certificates."""
    authority = trustme.CA()
    server = Folder(folder / "server").trust(authority).show(authority)
    ours = Folder(folder / "ours").trust(authority).show(authority, "qingyu")
    settings = ours.settings("QINGYU_NATS", "ca", "cert", "key")
    return GuardedNats([tls_block(server, mutual=True)], scheme="tls", settings=settings)


def test_all_kinds_of_calls_work_with_each_process_as_its_own_user(tmp_path: Path) -> None:
    database = PostgresProcess()
    database.start()
    workers = (
        *("services.chat", "services.agent", "services.tool"),
        Worker("services.rag", "rag", database.settings),
    )
    nats = secured(tmp_path)
    try:
        nats.start()
        with System(*workers, bridges=2, settings=FAST, nats=nats) as system:
            with grpc.insecure_channel(system.target, options=OWN_CONNECTION) as channel:
                chats(channel)
                retrieves(channel)
                calls_tools(channel)
                works_as_agent(channel)
            goes_on_elsewhere(system)
            cancels(system)
            reads_events(system)
            loses_memory(system, nats)
            assert nats.violations == []
    finally:
        nats.close()
        database.close()


class GuardedCluster(NatsCluster):
    """Three servers with users, and the process that makes their streams."""

    def __init__(self) -> None:
        super().__init__()
        users = Users()
        self._env = {**os.environ, **users.variables}
        self._config = Path(self._dir.name) / "guarded.conf"
        self._config.write_text(users.configuration, encoding="utf-8")
        self.settings = {**users.settings, "QINGYU_BUS__REPLICAS": str(self.replicas)}
        self._maker: Streams | None = None

    def start(self) -> None:
        """See `NatsCluster.start`."""
        super().start()
        self._maker = Streams(self.url, self.settings, Path(self._dir.name))
        self._maker.wait_made()

    def _spawn(self, name: str) -> None:
        argv = list(self._nodes[name].argv(list(self._nodes.values())))
        argv[argv.index("-c") + 1] = str(self._config)
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=self._env)

    def close(self) -> None:
        """See `NatsCluster.close`."""
        if self._maker is not None:
            self._maker.close()
        super().close()

    @property
    def violations(self) -> list[str]:
        """By the logs of all servers."""
        return [line for name in self.nodes for line in violations(self._log(name).read_text(errors="replace"))]


def test_permissions_hold_and_suffice_on_three_servers_too() -> None:
    """Questions cross routes, streams have leaders elsewhere, one server dies."""
    nats = GuardedCluster()
    with System("services.chat", "services.tool", bridges=2, settings=SLOW_VOTES, nats=nats) as system:
        for bridge in system.bridges:
            with grpc.insecure_channel(bridge.target, options=OWN_CONNECTION) as channel:
                chats(channel)
                counts(channel)
        nats.kill(nats.leader_of("AI_LOG"))
        system.wait_ready(60)
        for bridge in system.bridges:
            with grpc.insecure_channel(bridge.target, options=OWN_CONNECTION) as channel:
                chats(channel)
                counts(channel)
        assert nats.violations == []


def chats(channel: grpc.Channel) -> None:
    stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
    session = new_id()
    for text in ("你好", "再说一句"):
        asked = ai.ChatRequest(messages=[common.Message(role="user", content=text)], session_id=session, metadata=me())
        assert stub.Chat(asked, timeout=20).message.content
        assert [c.is_final for c in stub.ChatStream(again(asked), timeout=20)][-1] is True


def again(asked: ai.ChatRequest) -> ai.ChatRequest:
    """The same under another id."""
    copy = ai.ChatRequest()
    copy.CopyFrom(asked)
    copy.metadata.request_id = new_id()
    return copy


def me() -> common.Metadata:
    return common.Metadata(request_id=new_id(), user_id="u1")


def retrieves(channel: grpc.Channel) -> None:
    stub = rag_pb2_grpc.RAGServiceStub(channel)
    document = rag.IndexRequest(document_id="d1", content=PASSAGE, content_type="chapter", user_id="u1", project_id="p")
    assert stub.IndexDocument(document, timeout=20).success
    found = stub.Search(rag.SearchRequest(query="青铜小灯", user_id="u1", project_id="p"), timeout=20)
    assert [one.document_id for one in found.results] == ["d1"]


def calls_tools(channel: grpc.Channel) -> None:
    stub = tool_pb2_grpc.ToolServiceStub(channel)
    names = [one.name for one in stub.ListTools(tool.ListToolsRequest(), timeout=10).tools]
    assert {"text_statistics", "search_knowledge"} <= set(names)
    assert stub.GetToolInfo(tool.GetToolInfoRequest(tool_name="text_statistics"), timeout=10).name == "text_statistics"
    counts(channel)
    # A tool that asks retrieval: the tool worker's user asks the rag worker's.
    asked = tool.ToolRequest(
        tool_name="search_knowledge", parameters=json.dumps({"query": "青铜小灯"}), user_id="u1", project_id="p"
    )
    searched = stub.CallTool(asked, timeout=20)
    assert searched.success, searched
    assert "青铜小灯" in searched.result


def counts(channel: grpc.Channel) -> None:
    parameters = json.dumps({"text": PASSAGE})
    asked = tool.ToolRequest(tool_name="text_statistics", parameters=parameters, user_id="u1")
    counted = tool_pb2_grpc.ToolServiceStub(channel).CallTool(asked, timeout=20)
    assert counted.success, counted


def works_as_agent(channel: grpc.Channel) -> None:
    stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
    asked = ai.AgentRequest(
        agent_type="review", task=f"请统计并点评这段文字：{PASSAGE}", tools=["text_statistics"], metadata=me()
    )
    answer = stub.ExecuteAgent(asked, timeout=40)
    assert (answer.status, len(answer.tool_calls) > 0) == ("completed", True)


def goes_on_elsewhere(system: System) -> None:
    """A chat worker and a bridge are killed in the middle of a stream."""
    dying, living = system.bridges
    reader = Reader(novel())
    reader.target = dying.target
    reader.start()
    eventually_sync(lambda: len(reader.text) > 10)
    dying.kill()
    system.workers[0].kill()
    system.workers[0].start()
    reader.join()
    rest = reader.go_on(living.target)
    rest.join()
    assert (rest.finals, rest.text.startswith(reader.text), rest.text != reader.text) == (1, True, True)
    dying.start()
    system.wait_ready()


def cancels(system: System) -> None:
    """A stream is cancelled by name, at the other bridge."""
    first, second = system.bridges
    request = novel()
    with (
        grpc.insecure_channel(first.target, options=OWN_CONNECTION) as one,
        grpc.insecure_channel(second.target, options=OWN_CONNECTION) as other,
    ):
        stream = ai_agent_pb2_grpc.AIAgentServiceStub(one).ChatStream(request, timeout=20)
        next(stream)
        name = request.metadata
        wanted = control.CancelRequest(method="ChatStream", request_id=name.request_id, metadata=name)
        control_pb2_grpc.CallControlStub(other).Cancel(wanted, timeout=10)
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() == grpc.StatusCode.CANCELLED


def reads_events(system: System) -> None:
    """Another team's reader."""
    env = {**system.env, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qingyu_ai.cli", "events", "replay", "--since", "beginning"]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert len(re.findall("completed", shown.stdout)) >= 4, shown.stdout


def loses_memory(system: System, nats: GuardedNats) -> None:
    """The server restarts and has lost its streams in memory: `qingyu_ai.streams --stay` makes them again, nobody else may."""
    assert nats.violations == []  # the log begins anew
    nats.restart()
    system.wait_ready()
    with grpc.insecure_channel(system.target, options=OWN_CONNECTION) as channel:
        chats(channel)
