"""ListTools, GetToolInfo and CallTool through a real bridge, on a real nats-server, with tools in real children."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker, Sign
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.identity.tool_tokens import Signer
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.settings import SettingsError
from services.tool.announcing import OtherTool
from services.tool.builtin import search_knowledge
from services.tool.definition import Tool
from services.tool.process import serve
from services.tool.proofs import Proofs
from services.tool.sandbox import Sandbox
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.bus.conftest import FAST
from tests.tokens import private_key, public_pem
from tests.tool import few
from tests.waiting import eventually

TOOLS = (few.twice, few.mine, few.look_up, few.never, few.defect)
LEASE = 0.6


@pytest.fixture
def bus_settings() -> BusSettings:
    return FAST.model_copy(update={"tool_lease_seconds": LEASE})


@contextlib.asynccontextmanager
async def tool_worker(
    bridge: Bridge,
    tools: Sequence[Tool[Any, Any]] = TOOLS,
    *,
    slots: int = 8,
    wait_seconds: float = 10.0,
    proofs: Proofs | None = None,
) -> AsyncIterator[Worker]:
    """A tool worker in the test's process; its computed tools run in one child."""
    bus = await NatsBus.open(bridge.settings.nats.servers, "tool", on_closed=lambda: None)
    async with Sandbox(tools, children=1, wait_seconds=wait_seconds) as sandbox:
        worker = Worker(bus, "tool", bridge.settings.bus, slots=slots)
        serve(bus, worker, tools, sandbox, bridge.settings.bus.tool_lease_seconds, proofs=proofs)
        try:
            await worker.start()
            await eventually(lambda: any(w.id == worker.token for w in bridge.presence.workers()))
            yield worker
        finally:
            await worker.drain(1)
            await bus.close()


async def listed(bridge: Bridge, category: str = "") -> list[str]:
    answer: pb.ListToolsResponse = await bridge.unary(routes.LIST_TOOLS)(
        pb.ListToolsRequest(category=category), timeout=5
    )
    return [one.name for one in answer.tools]


async def call(bridge: Bridge, name: str, **parameters: Any) -> pb.ToolResponse:
    request = pb.ToolRequest(tool_name=name, parameters=json.dumps(parameters), user_id="u", project_id="p")
    answer: pb.ToolResponse = await bridge.unary(routes.CALL_TOOL)(request, timeout=20)
    return answer


async def test_tools_are_listed_described_and_called(bridge: Bridge) -> None:
    async with tool_worker(bridge):
        assert await listed(bridge) == ["defect", "look_up", "mine", "never", "twice"]
        assert await listed(bridge, "sums") == ["defect", "never", "twice"]
        info: pb.ToolInfo = await bridge.unary(routes.GET_TOOL_INFO)(
            pb.GetToolInfoRequest(tool_name="twice"), timeout=5
        )
        assert (info.description, info.category, info.requires_auth) == ("加倍一个数。", "sums", False)
        [parameter] = info.parameters
        assert (parameter.name, parameter.type, parameter.required) == ("number", "integer", True)
        answer = await call(bridge, "twice", number=21)
        assert (json.loads(answer.result), answer.success, answer.status.code) == ({"twice": 42}, True, 0)


async def test_parameters_that_do_not_hold_are_named(bridge: Bridge) -> None:
    async with tool_worker(bridge):
        for wrong, field in (({"number": "21"}, "number"), ({"number": -1}, "number"), ({}, "number"), ({"n": 1}, "n")):
            request = pb.ToolRequest(tool_name="twice", parameters=json.dumps(wrong), user_id="u")
            refusal = await bridge.refused(routes.CALL_TOOL, request)
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert f"parameters.{field}" in {name for name, _ in refusal.fault.violations}
            assert f"parameters.{field}：" in refusal.fault.chinese
            for _, what in refusal.fault.violations:
                assert what not in refusal.fault.chinese
        refusal = await bridge.refused(routes.CALL_TOOL, pb.ToolRequest(tool_name="twice", parameters="{", user_id="u"))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_tool_that_is_not_there_is_not_found(bridge: Bridge) -> None:
    async with tool_worker(bridge):
        for route, request in (
            (routes.CALL_TOOL, pb.ToolRequest(tool_name="thrice", parameters="{}", user_id="u")),
            (routes.GET_TOOL_INFO, pb.GetToolInfoRequest(tool_name="thrice")),
        ):
            refusal = await bridge.refused(route, request)
            assert refusal.code is grpc.StatusCode.NOT_FOUND
            assert "thrice" in refusal.message


@pytest.mark.parametrize(
    ("name", "parameters", "code", "words", "reason"),
    [
        ("twice", {"number": 13}, grpc.StatusCode.FAILED_PRECONDITION, "13 不可加倍", "TOOL_FAILED"),
        ("never", {}, grpc.StatusCode.DEADLINE_EXCEEDED, "0.2", "TOOL_TIMEOUT"),
        ("defect", {}, grpc.StatusCode.INTERNAL, "请将此编号告知我们", "INTERNAL"),
        ("look_up", {"query": "宝玉"}, grpc.StatusCode.UNAVAILABLE, "没有可用的 rag 服务", "NO_WORKER"),
    ],
)
async def test_tool_that_fails_is_an_answer_that_says_why(
    bridge: Bridge, name: str, parameters: dict[str, Any], code: grpc.StatusCode, words: str, reason: str
) -> None:
    async with tool_worker(bridge):
        answer = await call(bridge, name, **parameters)
        assert (answer.success, answer.result, answer.status.code) == (False, "", code.value[0])
        assert words in answer.error
        assert "Traceback" not in answer.error
        english, chinese = answer.error.split(" / ")
        assert (english.isascii(), chinese.isascii()) == (True, False)
        assert answer.status.details == reason


async def test_tool_asks_another_service_as_its_caller(bridge: Bridge) -> None:
    asked: list[Call] = []

    async def search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        asked.append(call)
        return rag.SearchResponse(total_count=len(request.query))

    await bridge.worker("rag", search=search)
    async with tool_worker(bridge):
        answer = await call(bridge, "look_up", query="宝玉")
        assert json.loads(answer.result) == {"found": 2}
    assert [(one.user, one.project) for one in asked] == [("u", "p")]


async def test_knowledge_is_searched_as_the_caller_and_unavailable_without_retrieval(bridge: Bridge) -> None:
    asked: list[rag.SearchRequest] = []

    async def search(call: Call, request: rag.SearchRequest) -> rag.SearchResponse:
        asked.append(request)
        return rag.SearchResponse(results=[rag.SearchResult(document_id="d1", content="灯是师父留下的。", score=0.5)])

    async with tool_worker(bridge, [search_knowledge]):
        answer = await call(bridge, "search_knowledge", query="灯")
        assert (answer.success, answer.status.code) == (False, grpc.StatusCode.UNAVAILABLE.value[0])
        await bridge.worker("rag", search=search)
        answer = await call(bridge, "search_knowledge", query="灯", top_k=3)
    assert json.loads(answer.result) == {
        "passages": [{"document_id": "d1", "content": "灯是师父留下的。", "score": 0.5}]
    }
    assert [(one.query, one.user_id, one.project_id, one.top_k) for one in asked] == [("灯", "u", "p", 3)]
    assert (asked[0].options.enable_hybrid, asked[0].options.enable_rerank) == (True, True)


async def asked_for_mine(worker: Worker, sign: Sign | None) -> pb.ToolResponse:
    known = Call("c" * 32, "r", "u", "p", (), Deadline.after(5), "", verified=True)
    request = pb.ToolRequest(tool_name="mine", parameters="{}")
    return await Asker(worker.bus, sign).ask(known, routes.CALL_TOOL, request, part="1", seconds=5)


async def test_tool_for_verified_users_runs_for_nobody_else(bridge: Bridge, tmp_path: Path) -> None:
    (tmp_path / "callers.pem").write_text(public_pem(private_key("EdDSA")))
    proofs = await Proofs.open(tmp_path / "callers.pem")
    ours, theirs = Signer(private_key("EdDSA")).sign, Signer(private_key("EdDSA", 1)).sign
    async with tool_worker(bridge, proofs=proofs) as worker:
        refusal = await bridge.refused(routes.CALL_TOOL, pb.ToolRequest(tool_name="mine", parameters="{}", user_id="u"))
        assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
        assert json.loads((await asked_for_mine(worker, ours)).result) == {"user": "u", "project": "p"}
        for sign in (
            theirs,
            lambda call, user, tool: ours("d" * 32, user, tool),
            lambda call, user, tool: ours(call, "v", tool),
            lambda call, user, tool: ours(call, user, "twice"),
            lambda call, user, tool: "x",
        ):
            with pytest.raises(Fault) as error:
                await asked_for_mine(worker, sign)
            assert error.value.code is Code.UNAUTHENTICATED
        with pytest.raises(Fault) as error:
            await asked_for_mine(worker, None)
        assert (error.value.code, error.value.reason) == (Code.FAILED_PRECONDITION, "NO_PROOF")
        assert "QINGYU_AGENT__SIGNING_KEY_FILE" in error.value.message
        assert (await call(bridge, "twice", number=1)).success, "other tools need no proof"
    await proofs.close()


async def test_worker_without_keys_says_which_setting_is_missing(bridge: Bridge, tmp_path: Path) -> None:
    async with tool_worker(bridge) as worker:
        with pytest.raises(Fault) as error:
            await asked_for_mine(worker, Signer(private_key("EdDSA")).sign)
        assert (error.value.code, error.value.reason) == (Code.FAILED_PRECONDITION, "NO_PROOF")
        for words in (error.value.message, error.value.chinese):
            assert "QINGYU_TOOL__CALLER_KEYS_FILE" in words
    (tmp_path / "x.pem").write_text("x")
    with pytest.raises(SettingsError, match=r"^QINGYU_TOOL__CALLER_KEYS_FILE: .*holds no key"):
        await Proofs.open(tmp_path / "x.pem")


async def test_tools_of_two_workers_are_one_list_and_leave_it_with_their_worker(bridge: Bridge) -> None:
    async with tool_worker(bridge, [few.twice, few.never]):
        async with tool_worker(bridge, [few.defect, few.never]):
            await eventually(lambda: listed_are(bridge, ["defect", "never", "twice"]))
            assert (await call(bridge, "twice", number=1)).success
            assert not (await call(bridge, "defect")).success
        await eventually(lambda: listed_are(bridge, ["never", "twice"]))
        assert (await bridge.refused(routes.CALL_TOOL, pb.ToolRequest(tool_name="defect", parameters="{}"))).code in (
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT,
        )


async def listed_are(bridge: Bridge, names: list[str]) -> bool:
    return await listed(bridge) == names


@pytest.mark.parametrize("change", ["parameters", "requires_auth"])
async def test_worker_whose_tool_is_another_one_does_not_start_and_hears_no_call(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    fields = {f: getattr(few.twice, f) for f in few.twice.__dataclass_fields__}
    fields |= {"model": few.Query} if change == "parameters" else {"requires_auth": True}
    other: Tool[Any, Any] = Tool(**fields)
    async with tool_worker(bridge, [few.twice]):
        heard: list[str] = []
        subscribe = NatsBus.subscribe

        async def noted(bus: NatsBus, subject: str, *args: Any, **more: Any) -> Any:
            heard.append(subject)
            return await subscribe(bus, subject, *args, **more)

        monkeypatch.setattr(NatsBus, "subscribe", noted)
        with pytest.raises(OtherTool, match=f"'twice' is served by worker [0-9a-f]+ with other {change}; stop"):
            async with tool_worker(bridge, [few.defect, other]):
                pass
        assert not [subject for subject in heard if subject.startswith(routes.CALL_TOOL.subject)]
        assert await listed(bridge) == ["twice"]
        assert (await call(bridge, "twice", number=1)).success
