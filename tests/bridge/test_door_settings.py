"""Settings of the door that are refused at the start, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.doors import Doors
from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.settings import Bridge as BridgeSettings
from qingyu_ai.settings import SettingsError, load
from tests.bridge.conftest import chat
from tests.tokens import SECRET

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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"host": "0.0.0.0"},
            "host must be an address of this machine only, not 0.0.0.0; set authentication to required",
        ),
        ({"authentication": "required"}, "none of token_key, token_key_file, token_keys_url is set"),
        ({"token_key": "short"}, "token_key has 5 characters; it must have at least 32"),
        ({"token_key": SECRET, "token_keys_url": "https://a.example"}, "set one of token_key"),
        ({"token_keys_url": "http://login.example.com/jwks"}, "TOKEN_KEYS_URL: it must begin with https://"),
        ({"token_keys_url": "file:///etc/passwd"}, "TOKEN_KEYS_URL: it must be an address like"),
        ({"token_keys_ca_file": __file__}, "token_keys_ca_file is for token_keys_url"),
        ({"trusted_roles": ("a",), "roles_claim": ""}, "roles_claim, which they are read from, is empty"),
        ({"authentication": "maybe"}, "AUTHENTICATION is 'maybe'; it must be off or required"),
    ],
)
def test_settings_that_leave_the_door_open_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(bridge=settings)
    assert words in str(refusal.value)
    assert "QINGYU_BRIDGE" in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_who_says_it_twice_may_leave_the_door_open() -> None:
    assert BridgeSettings(host="0.0.0.0", anyone_may_call=True).authentication == "off"


async def test_key_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("x")
    with pytest.raises(SettingsError, match=r"QINGYU_BRIDGE__TOKEN_KEY_FILE: .*key\.pem holds no key in PEM"):
        await Doors.open(BridgeSettings(authentication="required", token_key_file=path))
    with pytest.raises(SettingsError, match="QINGYU_BRIDGE__SIGNING_KEY_FILE"):
        await Doors.open(BridgeSettings(signing_key_file=path))
