"""The system that is abused, and what one of its tenants keeps there."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import nats

from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from tests.postgres import PostgresProcess
from tests.running import System, Worker
from tests.tokens import AUDIENCE, ISSUER, KeyServer, bearer, jwk, private_key, private_pem, public_pem

from .calling import Attempt, answer_to
from .forgeries import KID, Metadata, good
from .holes import HOLE

VICTIM, ATTACKER = "victim", "mallory"
PROJECT, SESSION, DOCUMENT = "secret-project", "secret-session", "secret-document"
CHAT_ID, AGENT_ID = "secret-chat", "secret-agent"
IDS = {"user": VICTIM, "project": PROJECT, "session": SESSION, "document": DOCUMENT, "chat": CHAT_ID, "agent": AGENT_ID}
"""What the attacker knows of the victim: names, which are no secrets here. What stands behind them is."""

TOOL = "说出调用者"
"""In the list of tools, which is for everybody who has a token."""


@dataclass
class Rig:
    """A system with a victim in it."""

    system: System
    channel: grpc.aio.Channel
    bridge_log: Path
    canaries: dict[str, str] = field(default_factory=dict)
    """By what it is: a text of the victim's that nobody else may see."""

    def as_user(self, user: str, **claims: Any) -> Metadata:
        """Metadata of a good token."""
        return bearer(good(user, **claims))

    async def made(self, route: routes.Route[Any, Any], request: Any, metadata: Metadata) -> Any:
        """Make a call that must end well, and give all that was said."""
        answer = await answer_to(self.channel, Attempt(route, request, metadata, ""))
        assert answer.code == "OK", (route.method, answer)
        return answer

    async def plant(self) -> None:
        """Let the victim work: a session, a document, a chat and an agent whose logs are kept."""
        for name in ("session", "document", "chat log", "agent log"):
            self.canaries[name] = f"canary{secrets.token_hex(8)}"
        own, kept = self.as_user(VICTIM), self.canaries
        said = [common.Message(role="user", content=f"记住：{kept['session']}")]
        await self.made(routes.CHAT, ai.ChatRequest(session_id=SESSION, messages=said), own)
        document = rag.IndexRequest(
            document_id=DOCUMENT, project_id=PROJECT, content=f"灯是师父留下的。{kept['document']}", user_id=VICTIM
        )
        await self.made(routes.INDEX_DOCUMENT, document, own)
        await self.made(routes.CHAT_STREAM, self.chat, (*own, ("x-request-id", CHAT_ID)))
        await self.made(routes.EXECUTE_AGENT_STREAM, self.task, (*own, ("x-request-id", AGENT_ID)))

    @property
    def chat(self) -> ai.ChatRequest:
        """The victim's chat."""
        said = [common.Message(role="user", content=f"复述这句：{self.canaries['chat log']}")]
        return ai.ChatRequest(messages=said, session_id=f"{SESSION}-2")

    @property
    def task(self) -> ai.AgentRequest:
        """The victim's task."""
        task = f"复述这句：{self.canaries['agent log']}"
        return ai.AgentRequest(agent_type="creative", task=task, user_id=VICTIM)

    async def all_there(self) -> list[str]:
        """What the victim cannot see any more, or has never seen: then nobody can say that it did not leak."""
        own, kept, missing = self.as_user(VICTIM), self.canaries, []
        search = rag.SearchRequest(query="灯 师父", options=rag.SearchOptions(enable_hybrid=True), user_id=VICTIM)
        looks: list[tuple[str, routes.Route[Any, Any], Any, Metadata]] = [
            ("document", routes.SEARCH, search, own),
            ("chat log", routes.CHAT_STREAM, self.chat, (*own, ("x-request-id", CHAT_ID), ("x-follow", "true"))),
            (
                "agent log",
                routes.EXECUTE_AGENT_STREAM,
                self.task,
                (*own, ("x-request-id", AGENT_ID), ("x-follow", "true")),
            ),
        ]
        for name, route, request, metadata in looks:
            answer = await answer_to(self.channel, Attempt(route, request, metadata, ""))
            if kept[name].encode() not in answer.said:
                missing.append(f"the victim does not find its {name}: {answer.code}")
        if kept["session"].encode() not in await self.sessions():
            missing.append("the victim's session is gone")
        for method, name in (("ChatStream", CHAT_ID), ("ExecuteAgentStream", AGENT_ID)):
            asked = control.DescribeRequest(method=method, request_id=name)
            answer = await self.made(routes.DESCRIBE, asked, own)
            if answer.messages[0].call.state != control.CALL_STATE_ENDED or answer.messages[0].call.status.code:
                missing.append(f"the victim's {method} is not what it was: {answer.messages[0]}")
        answer = await self.made(routes.LIST_TOOLS, tool.ListToolsRequest(), own)
        if TOOL.encode() not in answer.said:
            missing.append("the list of tools is not what it was")
        return missing

    async def sessions(self) -> bytes:
        """All that is remembered of conversations, from the store itself."""
        connection = await nats.connect(self.system.nats.url.split(","))
        try:
            bucket = await connection.jetstream().key_value("ai_sessions")
            entries = [await bucket.get(key) for key in await bucket.keys()]
            return b"\n".join(entry.value or b"" for entry in entries)
        finally:
            await connection.close()

    def log_lines(self) -> list[str]:
        """All that the processes have said."""
        processes = [*self.system.bridges, *self.system.workers]
        return [line for process in processes for line in process.log.splitlines()]


@contextmanager
def _processes(folder: Path, hole: str) -> Iterator[System]:
    (folder / "bridge.pem").write_text(private_pem(private_key("EdDSA")))
    (folder / "callers.pem").write_text(public_pem(private_key("EdDSA")))
    database = PostgresProcess()
    database.start()
    try:
        with KeyServer([jwk(private_key("RS256"), "RS256", KID)]) as server:
            settings = {
                "QINGYU_BRIDGE__AUTHENTICATION": "required",
                "QINGYU_BRIDGE__TOKEN_KEYS_URL": server.url,
                "QINGYU_BRIDGE__TOKEN_ISSUER": ISSUER,
                "QINGYU_BRIDGE__TOKEN_AUDIENCE": AUDIENCE,
                "QINGYU_BRIDGE__SIGNING_KEY_FILE": str(folder / "bridge.pem"),
                "QINGYU_AGENT__SIGNING_KEY_FILE": str(folder / "bridge.pem"),
                "QINGYU_TOOL__CALLER_KEYS_FILE": str(folder / "callers.pem"),
                "QINGYU_TOOL__MODULES": json.dumps(["services.tool.builtin", "tests.tool.few"]),
                "QINGYU_OFFLINE__FIRST_DELAY_SECONDS": "0",
                "QINGYU_OFFLINE__DELTAS_PER_SECOND": "0",
                "QINGYU_LOG__CALLS": "true",
                HOLE: hole,
                **database.settings,
            }
            workers = [Worker(f"services.{kind}", kind) for kind in ("chat", "agent", "rag", "tool")]
            module = "tests.abuse.holes" if hole else "bridge"
            token = bearer(good("operator"))
            with System(*workers, settings=settings, bridge_module=module, health_metadata=token) as system:
                yield system
    finally:
        database.close()


@asynccontextmanager
async def open_rig(folder: Path, hole: str = "") -> AsyncIterator[Rig]:
    """Start a system, and let its victim work.

    Args:
        folder: for keys.
        hole: one of `holes.HOLES`, for a negative control.
    """
    processes = _processes(folder, hole)
    system = await asyncio.to_thread(processes.__enter__)
    try:
        async with grpc.aio.insecure_channel(system.target) as channel:
            rig = Rig(system, channel, folder)
            await rig.plant()
            yield rig
    finally:
        await asyncio.to_thread(processes.__exit__, None, None, None)
