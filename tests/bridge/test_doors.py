"""Who may come in at the edge: tokens, whom they speak for, and what is left of those who may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import nats
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from bridge.doors import Doors
from qingyu_ai import routes
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.identity.tool_tokens import ToolVerifier
from qingyu_ai.settings import Bridge as BridgeSettings
from tests.bridge.conftest import Bridge, chat
from tests.tokens import AUDIENCE, ISSUER, SECRET, KeyServer, bearer, jwk, private_key, private_pem, public_pem, token
from tests.waiting import eventually

REQUESTS: dict[routes.Route[Any, Any], Any] = {
    routes.CHAT: chat("hi"),
    routes.CHAT_STREAM: chat("hi"),
    routes.EXECUTE_AGENT: ai.AgentRequest(agent_type="creative", task="t", user_id="u1"),
    routes.EXECUTE_AGENT_STREAM: ai.AgentRequest(agent_type="creative", task="t", user_id="u1"),
    routes.HEALTH_CHECK: ai.HealthRequest(),
    routes.SEARCH: rag.SearchRequest(query="q", user_id="u1"),
    routes.INDEX_DOCUMENT: rag.IndexRequest(document_id="d", content="c", user_id="u1"),
    routes.DELETE_DOCUMENT: rag.DeleteRequest(document_id="d", user_id="u1"),
    routes.BATCH_INDEX: rag.IndexRequest(document_id="d", content="c", user_id="u1"),
    routes.CALL_TOOL: tool.ToolRequest(tool_name="mine", parameters="{}"),
    routes.LIST_TOOLS: tool.ListToolsRequest(),
    routes.GET_TOOL_INFO: tool.GetToolInfoRequest(tool_name="mine"),
    routes.CANCEL: control.CancelRequest(method="Chat", request_id="r"),
    routes.DESCRIBE: control.DescribeRequest(method="Chat", request_id="r"),
}
"""A good request of each row, of u1."""


@pytest.fixture
def bridge_settings(tmp_path: Path) -> BridgeSettings:
    (tmp_path / "sign.pem").write_text(private_pem(private_key("EdDSA")))
    (tmp_path / "callers.pem").write_text(public_pem(private_key("EdDSA")))
    return BridgeSettings(
        port=0,
        expected_workers=("chat",),
        authentication="required",
        token_key=SECRET,  # type: ignore[arg-type]
        token_issuer=ISSUER,
        token_audience=AUDIENCE,
        trusted_roles=("backend",),
        signing_key_file=tmp_path / "sign.pem",
    )


async def whoami(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
    facts = f"{call.user}|{call.project}|{call.projects}|{call.roles}|{call.verified}"
    return ai.ChatResponse(message=common.Message(role="assistant", content=facts))


async def asked(bridge: Bridge, request: Any = None, **own: Any) -> str:
    reply = await bridge.unary(routes.CHAT)(request or chat("who"), metadata=bearer(token(**own)), timeout=10)
    found: str = reply.message.content
    return found


async def refused(bridge: Bridge, request: Any, metadata: Any, route: Any = routes.CHAT) -> grpc.StatusCode:
    code: grpc.StatusCode = (await bridge.refused(route, request, metadata=metadata)).code
    return code


async def tried(bridge: Bridge, route: routes.Route[Any, Any], metadata: Any) -> grpc.aio.AioRpcError:
    """Make a call of any kind of row that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await made(bridge, route, metadata)
    return error.value


async def made(bridge: Bridge, route: routes.Route[Any, Any], metadata: Any) -> None:
    request, options = REQUESTS[route], {"metadata": metadata, "timeout": 10}
    match route:
        case routes.StreamJob():
            async for _ in bridge.streaming(route)(request, **options):
                pass
        case routes.JobStream():
            method = bridge.channel.stream_unary(route.path, route.request.SerializeToString, route.reply.FromString)
            await method(iter([request]), **options)
        case _:
            await bridge.unary(route)(request, **options)


async def test_worker_is_told_who_calls_as_the_token_says(bridge: Bridge) -> None:
    await bridge.worker(chat=whoami)
    assert await asked(bridge) == "u1||None|()|True"
    named = chat("who", metadata=common.Metadata(user_id="u1", project_id="p"))
    assert await asked(bridge, named) == "u1|p|None|()|True"
    assert (
        await asked(bridge, named, projects=["项目,1", "p"], roles=["writer"])
        == "u1|p|('项目,1', 'p')|('writer',)|True"
    )
    assert await asked(bridge, projects=[]) == "u1||()|()|True"
    assert await asked(bridge, sub="用户 1") == "用户 1||None|()|True"


async def test_request_may_name_nobody_but_the_tokens_user_and_projects(bridge: Bridge) -> None:
    await bridge.worker(chat=whoami)
    for request in (
        chat("x", metadata=common.Metadata(user_id="u2")),
        chat("x", metadata=common.Metadata(project_id="p3")),
        chat("x", metadata=common.Metadata(user_id="U1")),
    ):
        refusal = await bridge.refused(routes.CHAT, request, metadata=bearer(token(projects=["p1"])))
        assert (refusal.code, refusal.fault.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        for canary in ("u2", "p3", "p1"):
            assert canary not in refusal.message + refusal.fault.chinese
    task = ai.AgentRequest(agent_type="creative", task="t", metadata=common.Metadata(user_id="u2"))
    assert await refused(bridge, task, bearer(token()), routes.EXECUTE_AGENT) is grpc.StatusCode.PERMISSION_DENIED
    search = rag.SearchRequest(query="q", user_id="u2")
    assert await refused(bridge, search, bearer(token()), routes.SEARCH) is grpc.StatusCode.PERMISSION_DENIED


async def test_trusted_service_acts_for_whom_it_names(bridge: Bridge) -> None:
    await bridge.worker(chat=whoami)
    service: dict[str, Any] = {"sub": "go-backend", "roles": ["backend"]}
    named = chat("who", metadata=common.Metadata(user_id="u7"))
    assert await asked(bridge, named, **service) == "u7||None|('backend',)|True"
    assert await asked(bridge, **service) == "||None|('backend',)|False", "nobody is nobody, and verified as nobody"
    request = ai.AgentRequest(agent_type="creative", task="t")
    code = await refused(bridge, request, bearer(token(**service)), routes.EXECUTE_AGENT)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    restricted = chat("who", metadata=common.Metadata(user_id="u7", project_id="p2"))
    code = await refused(bridge, restricted, bearer(token(**service, projects=["p1"])))
    assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("route", REQUESTS, ids=lambda route: route.method)
async def test_nobody_calls_any_row_without_a_token_and_all_are_told_the_same(
    bridge: Bridge, route: routes.Route[Any, Any]
) -> None:
    told = set()
    good = token()
    for metadata in (
        (),
        bearer(""),
        bearer("x"),
        bearer(token("x" * 40)),
        bearer(token(exp=1)),
        (("authorization", f"Basic {good}"),),
        (("authorization", good),),
        (*bearer(good), *bearer(good)),
        (*bearer(good), *bearer(token(sub="u2"))),
        (("authorization-bin", good.encode()),),
    ):
        error = await tried(bridge, route, metadata)
        told.add((error.code(), error.details(), dict(error.trailing_metadata() or ())["grpc-status-details-bin"]))
    [(code, _, _)] = told
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_every_row_has_its_request_here() -> None:
    assert set(REQUESTS) == set(routes.ROUTES)


async def test_health_of_grpc_is_for_everybody_and_reflection_for_nobody(bridge: Bridge) -> None:
    await eventually(lambda: bridge.presence.settled)
    check = health_pb2_grpc.HealthStub(bridge.channel).Check  # type: ignore[attr-defined]
    assert (await check(health_pb2.HealthCheckRequest(), timeout=5)).status is not None
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    # Without a request: one that is written when the refusal is already there fails inside gRPC.
    assert await stub(bridge.channel).ServerReflectionInfo(timeout=5).code() is grpc.StatusCode.UNIMPLEMENTED


BACKGROUND = ("$JS.", "_INBOX.", "$SRV.", "ai.open.", "ai.held.", "_R_.")
"""What goes over the bus all the time, whether anybody calls or not."""


@asynccontextmanager
async def observed(bridge: Bridge) -> AsyncIterator[list[tuple[str, bytes]]]:
    """All that goes over the bus: (subject, headers and body)."""
    connection = await nats.connect(bridge.settings.nats.servers)
    heard: list[tuple[str, bytes]] = []

    async def hear(message: Any) -> None:
        heard.append((message.subject, repr(message.headers).encode() + message.data))

    await connection.subscribe(">", cb=hear)
    await connection.flush()
    yield heard
    await connection.flush()
    await connection.close()


async def test_refused_call_leaves_nothing_on_the_bus(bridge: Bridge) -> None:
    await bridge.worker(chat=whoami)
    bad = (bearer(token("x" * 40, jti="canary-token")), (), bearer(token(sub="canary-user")))
    async with observed(bridge) as heard:
        for route in REQUESTS:
            if route.path == routes.HEALTH_CHECK.path:
                continue  # it may be asked by everybody who has a token, and names nobody
            for metadata in bad[:2]:
                await tried(bridge, route, (*metadata, ("x-request-id", "canary-request")))
        for route in (routes.SEARCH, routes.INDEX_DOCUMENT, routes.EXECUTE_AGENT, routes.DELETE_DOCUMENT):
            error = await tried(bridge, route, (*bad[2], ("x-request-id", "canary-request")))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        # The bus is in order: what was sent before this one has been heard before it.
        assert await asked(bridge, chat("marker"))
        await eventually(lambda: any(b"marker" in body for _, body in heard))
    until = next(n for n, (_, body) in enumerate(heard) if b"marker" in body)
    left = [subject for subject, _ in heard[:until] if not subject.startswith(BACKGROUND)]
    assert left == []
    assert not [subject for subject, body in heard if b"canary" in body or "canary" in subject]


async def test_token_itself_never_reaches_the_bus(bridge: Bridge) -> None:
    await bridge.worker(chat=whoami)
    written = token()
    async with observed(bridge) as heard:
        call = bridge.unary(routes.CHAT)(chat("marker"), metadata=bearer(written), timeout=10)
        await call
        await eventually(lambda: any(b"marker" in body for _, body in heard))
    everything = b"".join(subject.encode() + body for subject, body in heard)
    assert b"Qai-User" in everything
    for part in written.split("."):
        assert part.encode() not in everything


async def test_call_of_another_user_is_not_there(bridge: Bridge) -> None:
    await bridge.worker(chat=whoami)
    mine = (*bearer(token()), ("x-request-id", "mine"))
    await bridge.unary(routes.CHAT)(chat("x"), metadata=mine, timeout=10)
    stream = chat("a b c")
    async for _ in bridge.streaming(routes.CHAT_STREAM)(stream, metadata=mine, timeout=10):
        pass
    other, named = bearer(token(sub="u2")), common.Metadata(user_id="u1")
    for route, message in ((routes.DESCRIBE, control.DescribeRequest), (routes.CANCEL, control.CancelRequest)):
        theirs = message(method="ChatStream", request_id="mine")
        assert (await bridge.unary(route)(theirs, metadata=mine[:1], timeout=5)).call.state == control.CALL_STATE_ENDED
        theirs.metadata.CopyFrom(named)
        assert await refused(bridge, theirs, other, route) is grpc.StatusCode.PERMISSION_DENIED
        backend = bearer(token(sub="b", roles=["backend"]))
        assert (await bridge.unary(route)(theirs, metadata=backend, timeout=5)).call.state == control.CALL_STATE_ENDED
    theirs = control.DescribeRequest(method="ChatStream", request_id="mine")
    never = control.DescribeRequest(method="ChatStream", request_id="never")
    one = await bridge.refused(routes.DESCRIBE, theirs, metadata=other)
    two = await bridge.refused(routes.DESCRIBE, never, metadata=other)
    assert one.code is two.code is grpc.StatusCode.NOT_FOUND
    assert one.message.replace("mine", "never") == two.message
    for more in ((("x-follow", "true"),), (("x-resume-from", "1"),)):
        found = []
        for name in ("mine", "never"):
            metadata = (*other, ("x-request-id", name), *more)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                async for _ in bridge.streaming(routes.CHAT_STREAM)(stream, metadata=metadata, timeout=10):
                    pass
            found.append((error.value.code(), (error.value.details() or "").replace("mine", "never")))
        assert found[0] == found[1]


async def test_document_of_another_user_in_a_batch_fails_alone(bridge: Bridge) -> None:
    await bridge.worker("rag")
    index = bridge.channel.stream_unary(
        routes.BATCH_INDEX.path, rag.IndexRequest.SerializeToString, rag.BatchIndexResponse.FromString
    )
    documents = [rag.IndexRequest(document_id=f"d{n}", content="c", user_id=u) for n, u in enumerate(("u1", "u2", ""))]
    answer = await index(iter(documents), metadata=bearer(token()), timeout=10)
    assert (answer.total, answer.success_count, list(answer.failed_ids)) == (3, 2, ["d1"])


async def test_call_of_a_tool_brings_proof_of_this_call(bridge: Bridge, tmp_path: Path) -> None:
    verifier = ToolVerifier.of(tmp_path / "callers.pem")
    await verifier.start()
    seen: list[Call] = []

    async def mine(call: Call, request: tool.ToolRequest) -> tool.ToolResponse:
        seen.append(call)
        return tool.ToolResponse(success=True)

    await bridge.worker("tool", tool=mine, name="mine")
    request = tool.ToolRequest(tool_name="mine", parameters="{}")
    await bridge.unary(routes.CALL_TOOL)(request, metadata=bearer(token()), timeout=10)
    await bridge.unary(routes.CALL_TOOL)(request, metadata=bearer(token(sub="b", roles=["backend"])), timeout=10)
    known, nobody = seen
    verifier.check(known.proof, call=known.id, user="u1", tool="mine")
    assert (nobody.proof, nobody.verified) == ("", False)
    await verifier.stop()


async def test_bridge_without_keys_is_not_ready_and_says_so_to_callers(bridge: Bridge) -> None:
    with KeyServer() as server:
        server.status = 503
        settings = BridgeSettings(authentication="required", token_keys_url=server.url)
        doors = await Doors.open(settings)
        assert doors.unready() == "no keys to verify tokens with yet"
        bridge.edge._doors, before = doors, bridge.edge._doors
        bridge.health._closed = doors.unready
        metadata = bearer(token(private_key("EdDSA"), "EdDSA", {"kid": "k"}))
        refusal = await bridge.refused(routes.CHAT, chat("x"), metadata=metadata)
        assert (refusal.code, refusal.fault.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_KEYS")
        assert refusal.fault.retry_seconds == 1.0
        assert bridge.health.unready() == "no keys to verify tokens with yet"
        server.status = 200
        server.publish(jwk(private_key("EdDSA"), "EdDSA", "k"))
        assert await doors._verifier._keys._reload()  # type: ignore[union-attr]
        assert bridge.health.unready() == ""
        await bridge.worker(chat=whoami)
        reply = await bridge.unary(routes.CHAT)(chat("x"), metadata=metadata, timeout=10)
        assert reply.message.content.startswith("u1|")
        bridge.edge._doors = before
        await doors.close()
