"""What the HTTP face does for each row of its table."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from qingyu_ai.routes import AGENT_TYPES
from qingyu_ai.settings import Proxy
from services.proxy.errors import EXHAUSTED, NOT_FOUND, AIProxyError, Invalid
from services.proxy.models import (
    AgentRequest,
    Answer,
    ChatRequest,
    IndexRequest,
    SearchRequest,
)
from services.proxy.service import AIProxyService
from services.proxy.who import Who

from .answers import json_response
from .bodies import AgentTask, Ticket, TicketRequest, ToolParameters
from .doors import COOKIE_NAME, Doors
from .operations import FOLLOW
from .paths import sent_path
from .reading import JSON, NDJSON, body_of, checked_id, deadline_of, ended, gone, parsed, request_id_of
from .sse import EventStream
from .tickets import COOKIE, Tickets

Reply = TypeVar("Reply")

MOST_DOCUMENTS = 10_000
"""Of one batch."""


class ClientGone(Exception):
    """Nobody waits for the answer."""


class Face:
    """All handlers; each has the name of its row.

    Args:
        service: what does the work.
        settings: of the HTTP face.
        doors: who may come in.
        tickets: for browsers.
    """

    def __init__(self, service: AIProxyService, settings: Proxy, doors: Doors, tickets: Tickets) -> None:
        self.service = service
        self.settings = settings
        self.doors = doors
        self._tickets = tickets
        self._batches = 0

    async def execute_agent(self, request: Request) -> Response:
        """Have an agent do a task."""
        who, task = await self.doors.who(request), await self._task(request)
        if task.stream:
            return self._agent_stream(request, task, who)
        return await self._answer(request, self.service.execute_agent(task, who, **_how(request)))

    async def execute_agent_stream(self, request: Request) -> Response:
        """The same as a stream."""
        who = await self.doors.who(request)
        return self._agent_stream(request, await self._task(request), who)

    def _agent_stream(self, request: Request, task: AgentRequest, who: Who) -> Response:
        how = _how(request)
        chunks = self.service.execute_agent_stream(task, who, lingers=True, **how)
        return self._events(chunks, how["request_id"])

    async def _task(self, request: Request) -> AgentRequest:
        kind = request.path_params["type"]
        if kind not in AGENT_TYPES:
            known = ", ".join(AGENT_TYPES)
            english = f"There is no agent {kind[:64]!r}; there are {known}"
            raise AIProxyError(NOT_FOUND, f"没有名为 {kind[:64]!r} 的智能体；可用：{known}", english)
        task = await self._read(request, AgentTask)
        if task.agent_type not in (None, kind):
            raise Invalid(("agentType", "differs from the path"), chinese="agentType：与地址中的不同")
        return AgentRequest.model_construct(**{**dict(task), "agent_type": kind})

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation."""
        who, asked = await self.doors.who(request), await self._read(request, ChatRequest)
        if asked.stream:
            return self._chat_stream(request, asked, who)
        return await self._answer(request, self.service.chat(asked, who, **_how(request)))

    async def chat_stream(self, request: Request) -> Response:
        """The same as a stream."""
        who = await self.doors.who(request)
        return self._chat_stream(request, await self._read(request, ChatRequest), who)

    def _chat_stream(self, request: Request, asked: ChatRequest, who: Who) -> Response:
        how = _how(request)
        return self._events(self.service.chat_stream(asked, who, lingers=True, **how), how["request_id"])

    def _events(self, chunks: Any, request_id: str) -> Response:
        location = FOLLOW.format(requestId=quote(request_id, safe=""))
        headers = {"X-Request-Id": request_id, "Location": location}
        return EventStream(chunks, headers, self.settings.silence_seconds, comes_back=False)

    async def follow(self, request: Request) -> Response:
        """Read a stream on."""
        who = await self.doors.who(request)
        request_id = checked_id("requestId", request.path_params["requestId"])
        given = request.headers.get("last-event-id") or request.query_params.get("lastEventId", "")
        chunks = self.service.follow(request_id, who, event_id=given, deadline=deadline_of(request))
        headers = {"X-Request-Id": request_id}
        if "ticket" in request.query_params:
            headers["Set-Cookie"] = self._cookie(request, who)
        return EventStream(chunks, headers, self.settings.silence_seconds, comes_back=True)

    def _cookie(self, request: Request, who: Who) -> str:
        """Lets a browser come back to this stream, and to nothing else."""
        path, seconds = sent_path(request.scope), self.settings.reconnect_seconds
        # A page of another site gets its cookie back over TLS only.
        site = "None; Secure" if request.url.scheme == "https" else "Lax"
        sealed = self._tickets.seal(who, path, seconds, COOKIE)
        where = quote(path, safe="/%")
        return f"{COOKIE_NAME}={sealed}; Path={where}; Max-Age={int(seconds)}; HttpOnly; SameSite={site}"

    async def cancel(self, request: Request) -> Response:
        """Cancel a stream."""
        who = await self.doors.who(request)
        await self.service.cancel(checked_id("requestId", request.path_params["requestId"]), who)
        return Response(status_code=204)

    async def search(self, request: Request) -> Response:
        """Find parts of the user's documents."""
        who, asked = await self.doors.who(request), await self._read(request, SearchRequest)
        return await self._answer(request, self.service.rag_search(asked, who, **_how(request)))

    async def index(self, request: Request) -> Response:
        """Store a document, or many."""
        who = await self.doors.who(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == NDJSON:
            return await self._batch(request, who)
        asked = await self._read(request, IndexRequest)
        return await self._answer(request, self.service.rag_index(asked, who, **_how(request)))

    async def _batch(self, request: Request, who: Who) -> Response:
        settings = self.settings
        if self._batches >= settings.max_batches:
            raise AIProxyError(EXHAUSTED, english="Too many batches at once; try again in a moment", retry_seconds=5.0)
        self._batches += 1
        try:
            body = await body_of(request, settings.max_batch_bytes, settings.body_seconds, NDJSON)
            lines = [line for line in body.split(b"\n") if line.strip()]
            if not 0 < len(lines) <= MOST_DOCUMENTS:
                what = f"must hold 1 to {MOST_DOCUMENTS} documents, one a line; it holds {len(lines)}"
                raise Invalid(("body", what), chinese=f"须有 1 到 {MOST_DOCUMENTS} 个文档，每行一个")
            documents = []
            for number, line in enumerate(lines):
                if len(line) > settings.max_body_bytes:
                    what = f"has {len(line)} bytes; the limit is {settings.max_body_bytes}"
                    raise Invalid((f"documents[{number}]", what), chinese=f"documents[{number}]：过大")
                documents.append(parsed(IndexRequest, line, f"documents[{number}]"))
                await asyncio.sleep(0)  # others have their turn, too
            return await self._answer(request, self.service.rag_batch_index(documents, who, **_how(request)))
        finally:
            self._batches -= 1

    async def delete(self, request: Request) -> Response:
        """Remove a document."""
        who = await self.doors.who(request)
        return await self._answer(request, self.service.rag_delete(request.path_params["id"], who, **_how(request)))

    async def list_tools(self, request: Request) -> Response:
        """Describe the tools that there are."""
        who, category = await self.doors.who(request), request.query_params.get("category", "")
        return await self._answer(request, self.service.list_tools(who, category=category, **_how(request)))

    async def tool_info(self, request: Request) -> Response:
        """Describe one tool."""
        who = await self.doors.who(request)
        return await self._answer(
            request, self.service.get_tool_info(request.path_params["name"], who, **_how(request))
        )

    async def call_tool(self, request: Request) -> Response:
        """Run a tool."""
        who, name = await self.doors.who(request), request.path_params["name"]
        asked = await self._read(request, ToolParameters)
        if asked.tool_name not in ("", name):
            raise Invalid(("toolName", "differs from the path"), chinese="toolName：与地址中的不同")
        asked = asked.model_copy(update={"tool_name": name})
        return await self._answer(request, self.service.call_tool(asked, who, **_how(request)))

    async def ticket(self, request: Request) -> Response:
        """Give out a ticket."""
        who, asked = await self.doors.who(request), await self._read(request, TicketRequest)
        seconds = self.settings.ticket_seconds
        ticket = self._tickets.seal(who, asked.path, seconds)
        answer = Ticket(ticket=ticket, expires_in=seconds, url=f"{asked.path}?ticket={ticket}")
        return json_response(answer.to_json(), 201, {"Cache-Control": "no-store"})

    async def health(self, request: Request) -> Response:
        """Ask how the system is."""
        return json_response((await self.service.health()).to_json(), headers={"Cache-Control": "no-store"})

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(self.service.registry), media_type=CONTENT_TYPE_LATEST)

    async def _read(self, request: Request, model: Any) -> Any:
        settings = self.settings
        return parsed(model, await body_of(request, settings.max_body_bytes, settings.body_seconds, JSON))

    async def _answer(self, request: Request, work: Coroutine[Any, Any, Answer]) -> Response:
        """Wait for an answer as long as the client does."""
        answer = await _while_there(request, work)
        request_id = getattr(answer, "request_id", "")
        return json_response(answer.to_json(), headers={"X-Request-Id": request_id} if request_id else None)


async def _while_there(request: Request, work: Coroutine[Any, Any, Reply]) -> Reply:
    """Do what a client waits for.

    Raises:
        ClientGone: it does not wait any more; the work is cancelled.
    """
    loop = asyncio.get_running_loop()
    working, leaving = loop.create_task(work), loop.create_task(gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await ended(working, leaving)


def _how(request: Request) -> Any:
    return {"request_id": request_id_of(request), "deadline": deadline_of(request)}
