"""The WebSocket: one call for a socket. The first message names it; the client may cancel it, or leave and read on later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from services.proxy.errors import CANCELLED, SLOW_CLIENT, AIProxyError, Invalid
from services.proxy.models import AgentRequest, ChatRequest, Request, StreamChunk
from services.proxy.who import Who, new_request_id

from .answers import defect, encode, error_response
from .face import Face
from .pump import Pump
from .reading import checked_id, ended, invalid
from .spans import left, told
from .sse import SEND_SECONDS

NORMAL, BROKE_RULES, FAILED = 1000, 1008, 1011
"""Why a socket is closed (RFC 6455, section 7.4.1)."""

QUIET_SECONDS = 3600.0
"""How long `Pump.take` may wait: the socket has pings of its own."""


class AgentFrame(Request):
    """Have an agent do a task."""

    type: Literal["agent"]
    request: AgentRequest
    request_id: str | None = None


class ChatFrame(Request):
    """Answer the last message of a conversation."""

    type: Literal["chat"]
    request: ChatRequest
    request_id: str | None = None


def _as_text(given: object) -> object:
    """An id that is a number may be one in JSON, too."""
    return str(given) if type(given) is int else given


class ResumeFrame(Request):
    """Read a call on; `from` is the `id` of the last chunk."""

    type: Literal["resume"]
    request_id: str
    position: Annotated[str, Field(alias="from"), BeforeValidator(_as_text)] = ""


class CancelFrame(Request):
    """Cancel the call."""

    type: Literal["cancel"]


class PingFrame(Request):
    """Ask whether anybody is there: pages cannot send the pings of the protocol."""

    type: Literal["ping"]


First = Annotated[AgentFrame | ChatFrame | ResumeFrame | PingFrame, Field(discriminator="type")]
Later = Annotated[CancelFrame | PingFrame, Field(discriminator="type")]
FIRST: TypeAdapter[AgentFrame | ChatFrame | ResumeFrame | PingFrame] = TypeAdapter(First)
LATER: TypeAdapter[CancelFrame | PingFrame] = TypeAdapter(Later)

Frame = TypeVar("Frame", bound=BaseModel)


class Socket:
    """One connection."""

    def __init__(self, face: Face, socket: WebSocket) -> None:
        self._face = face
        self._socket = socket

    async def serve(self) -> None:
        """Serve it to its end."""
        try:
            self._face.doors.check_origin(self._socket)
            who = await self._face.doors.who(self._socket)
        except AIProxyError as e:
            told(e)
            await self._socket.send_denial_response(error_response(e))
            return
        await self._socket.accept()
        try:
            await self._one_call(who)
            await self._socket.close(NORMAL)
        except (WebSocketDisconnect, TimeoutError):
            left()  # its call lingers, and it may come back
        except AIProxyError as e:
            asked_for = e.kind is CANCELLED
            await self._fail(e, NORMAL if asked_for else BROKE_RULES if e.http_status < 500 else FAILED)
        except Exception:
            await self._fail(defect(streams="websocket"), FAILED)

    async def _fail(self, error: AIProxyError, code: int) -> None:
        told(error)
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            await self._send({"type": "error", "error": error.to_dict()})
            await self._socket.close(code)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            pass  # it has gone meanwhile

    async def _one_call(self, who: Who) -> None:
        first = await self._first()
        request_id, chunks = self._call(first, who)
        await self._send({"type": "accepted", "requestId": request_id})
        async with Pump(chunks, request_id) as pump:
            loop = asyncio.get_running_loop()
            writing = loop.create_task(self._write(pump))
            hearing = loop.create_task(self._hear())
            try:
                await asyncio.wait({writing, hearing}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    return writing.result()
                hearing.result()  # ends with a cancel, or an error
                await self._face.service.cancel(request_id, who)
                error = AIProxyError(CANCELLED)
                error.request_id = request_id
                raise error
            finally:
                await ended(writing, hearing)

    async def _first(self) -> AgentFrame | ChatFrame | ResumeFrame:
        try:
            async with asyncio.timeout(self._face.settings.body_seconds):
                while True:
                    frame: AgentFrame | ChatFrame | ResumeFrame | PingFrame = await self._receive(FIRST)
                    if not isinstance(frame, PingFrame):
                        return frame
                    await self._send({"type": "pong"})
        except TimeoutError:
            raise AIProxyError(SLOW_CLIENT) from None

    def _call(
        self, frame: AgentFrame | ChatFrame | ResumeFrame, who: Who
    ) -> tuple[str, AsyncGenerator[StreamChunk, None]]:
        service = self._face.service
        request_id = new_request_id() if frame.request_id is None else checked_id("requestId", frame.request_id)
        match frame:
            case AgentFrame():
                chunks = service.execute_agent_stream(frame.request, who, request_id=request_id, lingers=True)
            case ChatFrame():
                chunks = service.chat_stream(frame.request, who, request_id=request_id, lingers=True)
            case ResumeFrame():
                chunks = service.follow(request_id, who, event_id=frame.position)
        return request_id, chunks

    async def _write(self, pump: Pump) -> None:
        while True:
            for chunk in await pump.take(QUIET_SECONDS):
                await self._send(
                    {
                        "type": "chunk",
                        "id": chunk.event_id,
                        "delta": chunk.delta,
                        "chunk_type": chunk.chunk_type,
                        "metadata": chunk.metadata,
                        "is_final": chunk.is_final,
                    }
                )
            if pump.over:
                await self._send({"type": "done", "status": "completed"})
                return

    async def _hear(self) -> None:
        """Listen until the client cancels."""
        while not isinstance(await self._receive(LATER), CancelFrame):
            await self._send({"type": "pong"})

    async def _receive(self, frames: TypeAdapter[Any]) -> Any:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or NORMAL)
        text = message.get("text")
        if text is None:
            what = "must be a text with JSON in it, not binary"
            raise Invalid(("message", what), chinese="message：须为文本消息，内容为 JSON，而不是二进制")
        try:
            return frames.validate_json(text)
        except ValidationError as e:
            raise invalid(e, "message") from None

    async def _send(self, message: dict[str, Any]) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._socket.send_text(encode(message).decode())
