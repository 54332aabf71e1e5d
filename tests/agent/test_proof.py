"""An agent calls a tool for verified users: in the name of its caller, with a signature of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qingyu_ai.bus.asking import Sign
from qingyu_ai.bus.errors import Code
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.identity.signing import signing
from qingyu_ai.settings import Bridge as BridgeSettings
from services.tool.proofs import Proofs
from tests.agent.scripted import ScriptedModel, calls, request, says
from tests.agent.test_bus import Parts
from tests.agent.test_bus import bridge as bridge
from tests.agent.test_bus import bus_settings as bus_settings
from tests.agent.test_bus import parts as parts
from tests.tokens import SECRET, bearer, private_key, private_pem, public_pem, token
from tests.tool import few
from tests.tool.test_service import tool_worker


@pytest.fixture
def bridge_settings() -> BridgeSettings:
    """One that wants tokens."""
    return BridgeSettings(
        port=0,
        expected_workers=("chat",),
        authentication="required",
        token_key=SECRET,  # type: ignore[arg-type]
    )


async def called(parts: Parts, folder: Path, sign: Sign | None) -> tuple[str, int]:
    """What the tool said when the agent of u1 called it: its result and its code."""
    (folder / "callers.pem").write_text(public_pem(private_key("EdDSA")))
    proofs = await Proofs.open(folder / "callers.pem")
    async with tool_worker(parts.bridge, [few.mine], proofs=proofs):
        await parts.agent(ScriptedModel(calls(("mine", {})), says("写完了。")), sign=sign)
        asked = request(tools=["mine"])
        chunks: list[ai.AgentStreamChunk] = await parts.stream(asked, *bearer(token(sub=asked.user_id)))
    await proofs.close()
    assert chunks[-1].metadata["status"] == "completed"
    [end] = [chunk for chunk in chunks if chunk.chunk_type == "tool_end"]
    return end.metadata["result"], int(end.metadata.get("code", "0"))


async def test_agent_with_a_key_calls_the_tool_as_its_caller(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "agent.pem").write_text(private_pem(private_key("EdDSA")))
    sign = signing(tmp_path / "agent.pem", ("agent", "signing_key_file"))
    result, _ = await called(parts, tmp_path, sign)
    assert json.loads(result)["user"] == "u1"


@pytest.mark.parametrize(("number", "code"), [(None, Code.FAILED_PRECONDITION), (1, Code.UNAUTHENTICATED)])
async def test_agent_without_a_key_that_the_tools_know_calls_it_in_vain(
    parts: Parts, tmp_path: Path, number: int | None, code: Code
) -> None:
    sign = None
    if number is not None:
        (tmp_path / "agent.pem").write_text(private_pem(private_key("EdDSA", number)))
        sign = signing(tmp_path / "agent.pem", ("agent", "signing_key_file"))
    result, found = await called(parts, tmp_path, sign)
    assert (result, found) == ("", int(code))
