"""The AI Proxy before a bridge that wants tokens: users' own, and its own where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.settings import AiProxy
from qingyu_ai.settings import Bridge as BridgeSettings
from services.proxy.errors import PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE, AIProxyError
from services.proxy.models import ChatRequest, Message
from services.proxy.own_token import OwnToken
from services.proxy.service import AIProxyService
from services.proxy.who import Who
from tests.bridge.conftest import Bridge
from tests.proxy.conftest import Start
from tests.tokens import SECRET, token

ASKED = ChatRequest(messages=[Message(role="user", content="谁？")])


@pytest.fixture
def bridge_settings() -> BridgeSettings:
    return BridgeSettings(
        port=0,
        expected_workers=("chat",),
        authentication="required",
        token_key=SECRET,  # type: ignore[arg-type]
        trusted_roles=("proxy",),
    )


def own() -> str:
    return token(sub="ai-proxy", roles=["proxy"])


async def whoami(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
    return ai.ChatResponse(message=common.Message(role="assistant", content=f"{call.user}|{call.verified}"))


async def said(service: AIProxyService, who: Who) -> str:
    return (await service.chat(ASKED, who)).message.content


async def refusal(service: AIProxyService, who: Who) -> AIProxyError:
    with pytest.raises(AIProxyError) as error:
        await service.chat(ASKED, who)
    return error.value


async def test_proxy_with_a_token_of_its_own_is_well_and_acts_for_whom_a_backend_names(
    bridge: Bridge, start: Start
) -> None:
    await bridge.worker(chat=whoami)
    service = await start(bridge.port, token=own())
    assert (await service.health()).status == "healthy"
    assert await said(service, Who("u7")) == "u7|True"
    assert await said(service, Who("u1", token=token())) == "u1|True"
    assert (await refusal(service, Who("u2", token=token()))).kind is PERMISSION_DENIED
    assert (await refusal(service, Who("u1", token="a.b.c"))).kind is UNAUTHENTICATED, "not tried again as the proxy"


async def test_proxy_without_one_is_good_for_users_with_tokens_only(bridge: Bridge, start: Start) -> None:
    await bridge.worker(chat=whoami)
    with capture_logs() as logs:
        service = await start(bridge.port)
    assert not service.well
    assert [log["set"] for log in logs if log["event"] == "bridge_not_healthy"] == ["QINGYU_AI__PROXY__TOKEN_FILE"]
    assert await said(service, Who("u1", token=token())) == "u1|True"
    error = await refusal(service, Who("u1"))
    assert (error.kind, error.reason, error.retryable) == (UNAVAILABLE, "OWN_TOKEN_NOT_TAKEN", False)
    for said_so in (error.message, error.english):
        assert "QINGYU" not in said_so, "whoever runs it is to know the setting; whoever calls cannot mend it"
    with pytest.raises(AIProxyError) as streamed:
        await anext(service.chat_stream(ASKED, Who("u1")))
    assert streamed.value.reason == error.reason
    assert service.protection.breaker.failures == 0
    with pytest.raises(AIProxyError) as asked:
        await service.health()
    assert asked.value.http_status == 503


def test_file_with_the_token_is_read_again(tmp_path: Path) -> None:
    path, now = tmp_path / "token", 100.0
    path.write_text("one\n")
    held = OwnToken(AiProxy(token_file=path), lambda: now)
    assert held() == "one"
    path.write_text("two")
    assert held() == "one"
    now += 10
    assert held() == "two"
    path.unlink()
    now += 10
    assert held() == "two", "a file that is gone takes no token away"
    path.write_text("thr\x01ee")
    now += 10
    assert held() == "", "what can be no header is none"
    assert OwnToken(AiProxy())() == ""
