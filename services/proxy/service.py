"""`AIProxyService`: one object through which a Python backend uses the AI system.

proxy = await AIProxyService.start(settings.ai.proxy)
answer = await proxy.chat(ChatRequest(messages=[Message(role="user", content="…")]), Who("u1"))
async with aclosing(proxy.chat_stream(request, Who("u1"))) as chunks:
    async for chunk in chunks: ...
await proxy.close()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Unpack

import structlog
from prometheus_client import CollectorRegistry

from qingyu_ai import routes
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.fault import Code
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.doors.certificates import Files
from qingyu_ai.routes import Route, StreamJob
from qingyu_ai.settings import AiProxy

from . import convert
from .calling import Calling, How, Logical, Reading
from .connection import CONNECT_SECONDS, OWN_TOKEN, Connection
from .errors import CANCELLED, NOT_FOUND, RAG_FAILED, UNAVAILABLE, AIProxyError, Invalid, failure
from .metrics import Metrics
from .models import (
    AgentRequest,
    AgentResponse,
    BatchIndexResponse,
    ChatRequest,
    ChatResponse,
    DeleteResponse,
    HealthResponse,
    IndexRequest,
    IndexResponse,
    SearchRequest,
    SearchResponse,
    StreamChunk,
    ToolInfo,
    ToolList,
    ToolRequest,
    ToolResponse,
)
from .own_token import OwnToken
from .positions import position_at
from .protection import Attempts, Protection
from .who import NOBODY, Who, new_request_id

log = structlog.get_logger(__name__)

HEALTH_EVERY_SECONDS = 30.0
HEALTH_SECONDS = 5.0

AGENT_GRACE_SECONDS = 5.0
"""More than `options.timeout_seconds`, after which an agent answers with the text so far: that answer must not come too late."""

HEALTHY = "healthy"
ERROR, GONE = "error", "cancelled"
"""Outcomes of agents' calls, beside those of their answers."""


class AIProxyService:
    """The caller's side of all services. One object for a whole process; make it with `start`.

    Each method takes who calls, and raises `AIProxyError`; `How` and `Reading` say what else a caller may name.
    """

    def __init__(self, settings: AiProxy, registry: CollectorRegistry | None = None) -> None:
        self.settings = settings
        self.registry = registry or CollectorRegistry()
        # Switched off, they count where nobody looks.
        self._metrics = Metrics(self.registry if settings.enable_metrics else CollectorRegistry())
        self.protection = Protection(settings)
        self._metrics.watch(self.protection)
        files = Files("QINGYU_AI__PROXY", settings.ca_file, settings.cert_file, settings.key_file)
        self._connection = Connection(settings.python_addr, OwnToken(settings), files)
        self._calling = Calling(self._connection, self.protection, self._metrics.resumed.inc)
        self._looking: asyncio.Task[None] | None = None
        self.well = False
        """What the last look at the bridge found."""

    @classmethod
    async def start(cls, settings: AiProxy, registry: CollectorRegistry | None = None) -> AIProxyService:
        """Connect, and begin to look after the bridge's health.

        Raises:
            AIProxyError: there is no connection within 10 s.
        """
        service = cls(settings, registry)
        try:
            await service._connection.ready(CONNECT_SECONDS)
        except BaseException:
            await service._connection.close()
            raise
        await service._look()
        service._looking = asyncio.get_running_loop().create_task(service._keep_looking())
        return service

    async def close(self) -> None:
        """End: what is being cancelled is waited for, what runs is hung up on."""
        if self._looking is not None:
            self._looking.cancel()
        await self._calling.settle()
        await self._connection.close()

    # Agents.

    async def execute_agent(self, request: AgentRequest, who: Who, **how: Unpack[How]) -> AgentResponse:
        """Have an agent do a task. One that failed is an answer: `status` says so."""
        call = self._agent_call(routes.EXECUTE_AGENT, request, who, how)
        began, status, tokens = time.monotonic(), ERROR, None
        try:
            reply, _ = await self._calling.ask(call)
            response = convert.agent_response(reply, call.request_id)
            status, tokens = response.status, response.stats.tokens_used
            for one in reply.tool_calls:
                exists = one.status.code != Code.NOT_FOUND
                self._metrics.tool(one.tool_name, success=not one.status.code, exists=exists)
            return response
        except asyncio.CancelledError:
            status = GONE
            raise
        finally:
            self._metrics.agent(request.agent_type, status, time.monotonic() - began, tokens)

    async def execute_agent_stream(
        self, request: AgentRequest, who: Who, **how: Unpack[Reading]
    ) -> AsyncGenerator[StreamChunk, None]:
        """Have an agent do a task, and hear everything as it happens. It goes on by itself when its connection is lost.

        Stopping the iteration cancels the call; close the generator (`aclosing`) to have that done at once.
        """
        call = self._agent_call(routes.EXECUTE_AGENT_STREAM, request, who, how)
        began, status, tokens = time.monotonic(), ERROR, None
        try:
            async with aclosing(self._stream(call, how)) as chunks:
                async for chunk in chunks:
                    facts = chunk.metadata
                    if chunk.chunk_type == "tool_end":
                        success, exists = facts.get("success") == "true", facts.get("code") != str(int(Code.NOT_FOUND))
                        self._metrics.tool(facts.get("tool_name", ""), success=success, exists=exists)
                    if chunk.is_final:
                        status, tokens = facts.get("status", "completed"), int(facts.get("tokens_used", "0"))
                    yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            status = GONE if status == ERROR else status
            raise
        except AIProxyError as e:
            status = GONE if e.kind is CANCELLED else ERROR
            raise
        finally:
            self._metrics.agent(request.agent_type, status, time.monotonic() - began, tokens)

    @staticmethod
    def _agent_call(route: Route[ai.AgentRequest, Any], request: AgentRequest, who: Who, how: How) -> Logical:
        who, request_id = who.somebody().with_project(request.user_id, request.project_id), _id(how)
        seconds = request.options.timeout_seconds
        timeout = seconds + AGENT_GRACE_SECONDS if seconds else None
        message = convert.agent_request(request, who, request_id)
        return Logical(route, message, who, request_id, timeout, how.get("deadline"))

    # Chat.

    async def chat(self, request: ChatRequest, who: Who, **how: Unpack[How]) -> ChatResponse:
        """Answer the last message of a conversation."""
        call = self._chat_call(routes.CHAT, request, who, how)
        reply, trailers = await self._calling.ask(call)
        return convert.chat_response(reply, trailers, call.request_id)

    async def chat_stream(
        self, request: ChatRequest, who: Who, **how: Unpack[Reading]
    ) -> AsyncGenerator[StreamChunk, None]:
        """Answer as the text appears; see `execute_agent_stream`."""
        call = self._chat_call(routes.CHAT_STREAM, request, who, how)
        async with aclosing(self._stream(call, how)) as chunks:
            async for chunk in chunks:
                yield chunk

    @staticmethod
    def _chat_call(route: Route[ai.ChatRequest, Any], request: ChatRequest, who: Who, how: How) -> Logical:
        who, request_id = who.with_project(request.user_id, request.project_id), _id(how)
        message = convert.chat_request(request, who, request_id)
        return Logical(route, message, who, request_id, None, how.get("deadline"))

    async def _stream(
        self, call: Logical, how: Reading, attempts: Attempts | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        assert isinstance(call.route, StreamJob)
        position = how.get("position") or position_at(call.route)
        assert position is not None, "every stream has a beginning"
        self._metrics.streams.inc()
        try:
            lingers = how.get("lingers", False)
            async with aclosing(self._calling.stream(call, position, lingers=lingers, attempts=attempts)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._metrics.streams.dec()

    # Calls that were begun before.

    async def follow(
        self, request_id: str, who: Who, *, event_id: str = "", deadline: Deadline | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """Read on a stream of this user that anybody began, from where its reader stands.

        Raises:
            AIProxyError: NOT_FOUND: there is none of that id. VALIDATION: that is no event id.
        """
        metadata = convert.metadata(who, request_id)
        both: tuple[tuple[StreamJob[Any, Any], Any], ...] = (
            (routes.CHAT_STREAM, ai.ChatRequest(metadata=metadata)),
            (routes.EXECUTE_AGENT_STREAM, ai.AgentRequest(metadata=metadata)),
        )
        stands = [(route, request, at) for route, request in both if (at := position_at(route, event_id)) is not None]
        if not stands:
            what = "is none of the ids that the events of a stream have"
            raise Invalid(("Last-Event-ID", what), chinese="Last-Event-ID：不是该流的事件编号")
        attempts: Attempts | None = None
        for route, request, at in stands:
            call = Logical(route, request, who, request_id, None, deadline, follows=True)
            attempts = await self._calling.begin(call) if attempts is None else attempts.anew()
            try:
                async with aclosing(self._stream(call, {"position": at, "lingers": True}, attempts)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except AIProxyError as e:
                if e.kind is not NOT_FOUND or route is stands[-1][0]:
                    raise

    async def cancel(self, request_id: str, who: Who) -> None:
        """Cancel a stream of this user, wherever it runs."""
        for route in (routes.CHAT_STREAM, routes.EXECUTE_AGENT_STREAM):
            await self._calling.cancel(route, request_id, who)

    # Retrieval.

    async def rag_search(self, request: SearchRequest, who: Who, **how: Unpack[How]) -> SearchResponse:
        """Find the parts of the user's documents that fit a query best."""
        who, request_id = who.somebody().with_project(request.user_id, request.project_id), _id(how)
        reply = await self._ask(routes.SEARCH, convert.search_request(request, who, request_id), who, request_id, how)
        if reply.status.code:
            raise failure(RAG_FAILED, reply.status.message, request_id=request_id)
        return convert.search_response(reply, request_id)

    async def rag_index(self, request: IndexRequest, who: Who, **how: Unpack[How]) -> IndexResponse:
        """Store a document, in place of what had its id.

        Raises:
            AIProxyError: also if the answer says that it was not stored.
        """
        who, request_id = who.somebody().with_project(request.user_id, request.project_id), _id(how)
        reply = await self._ask(routes.INDEX_DOCUMENT, convert.index_request(request, who), who, request_id, how)
        response = convert.index_response(reply, request_id)
        if not response.success:
            raise failure(RAG_FAILED, response.message, request_id=request_id)
        return response

    async def rag_batch_index(
        self, requests: Sequence[IndexRequest], who: Who, **how: Unpack[How]
    ) -> BatchIndexResponse:
        """Store many documents. One bad document does not fail the others."""
        messages = [convert.index_request(r, who.somebody().with_project(r.user_id, r.project_id)) for r in requests]
        call = Logical(routes.BATCH_INDEX, None, who, _id(how), None, how.get("deadline"))
        return convert.batch_response(await self._calling.send(call, messages), call.request_id)

    async def rag_delete(self, document_id: str, who: Who, **how: Unpack[How]) -> DeleteResponse:
        """Remove a document. One that is not there is `success: false`."""
        request_id = _id(how)
        message = rag.DeleteRequest(document_id=document_id, user_id=who.somebody().user_id)
        reply = await self._ask(routes.DELETE_DOCUMENT, message, who, request_id, how)
        return convert.delete_response(reply, request_id)

    # Tools.

    async def call_tool(self, request: ToolRequest, who: Who, **how: Unpack[How]) -> ToolResponse:
        """Run one tool. One that ran and failed is an answer with `success: false`."""
        who, request_id = who.with_project(request.user_id, request.project_id), _id(how)
        try:
            message = convert.tool_request(request, who, request_id)
            reply = await self._ask(routes.CALL_TOOL, message, who, request_id, how)
        except AIProxyError:
            self._metrics.tool(request.tool_name, success=False, exists=False)
            raise
        self._metrics.tool(request.tool_name, success=reply.success)
        return convert.tool_response(reply, request_id)

    async def list_tools(self, who: Who = NOBODY, *, category: str = "", **how: Unpack[How]) -> ToolList:
        """Describe the tools that there are."""
        message = tool.ListToolsRequest(category=category)
        return convert.tool_list((await self._ask(routes.LIST_TOOLS, message, who, _id(how), how)).tools)

    async def get_tool_info(self, name: str, who: Who = NOBODY, **how: Unpack[How]) -> ToolInfo:
        """Describe one tool."""
        message = tool.GetToolInfoRequest(tool_name=name)
        return convert.tool_info(await self._ask(routes.GET_TOOL_INFO, message, who, _id(how), how))

    async def _ask(self, route: Route[Any, Any], message: Any, who: Who, request_id: str, how: How) -> Any:
        return (await self._calling.ask(Logical(route, message, who, request_id, None, how.get("deadline"))))[0]

    # Health.

    async def health(self) -> HealthResponse:
        """Ask how the system is. It passes limiter and breaker: whoever asks wants to know it.

        Raises:
            AIProxyError: it is not healthy, or does not answer.
        """
        response = await self._ask_health()
        if response.status != HEALTHY:
            ill = "; ".join(f"{name}: {what}" for name, what in sorted(response.details.items()))
            raise AIProxyError(UNAVAILABLE, english=f"The AI service is {response.status}: {ill}", reason="UNHEALTHY")
        return response

    async def _ask_health(self) -> HealthResponse:
        reply, _ = await self._connection.unary(routes.HEALTH_CHECK, ai.HealthRequest(), (), HEALTH_SECONDS)
        return convert.health_response(reply)

    async def _look(self) -> None:
        was = self.well
        try:
            await self.health()
            self.well = True
        except AIProxyError as e:
            self.well = False
            # Whoever calls is not told the setting: it is the operator's.
            see = {"set": "QINGYU_AI__PROXY__TOKEN_FILE"} if e.reason == OWN_TOKEN else {}
            log.warning("bridge_not_healthy", bridge=self._connection.target, error=e.english, **see)
        if self.well and not was:
            log.info("bridge_healthy", bridge=self._connection.target)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_EVERY_SECONDS)
            await self._look()


def _id(how: How) -> str:
    return how.get("request_id") or new_request_id()
