"""An AI Proxy that streams from memory, and breaks one promise if asked to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

TEXT = (
    "【离线】灯芯只剩豆大一点火，雨从檐下斜着进来，他用手拢住，手背先湿了。他忽然明白，师父留下的不是灯，而是一个期限。"
)
REFUSAL = {"message": "请先登录", "messageEn": "Say who you are"}
FAILURE = {"message": "AI服务不可用", "messageEn": "The AI service is not available"}


class FakeProxy:
    """Keeps its promises, but for the one named in `fault`. Ids count characters."""

    def __init__(self, fault: str = "", port: int = 0) -> None:
        self._fault = fault
        routes = [
            Route("/api/v1/ai/chat/stream", self._begin, methods=["POST"]),
            Route("/api/v1/ai/calls/r1/stream", self._follow),
            WebSocketRoute("/api/v1/ai/ws", self._socket),
        ]
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(Starlette(routes=routes), ws="websockets-sansio", log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def _begin(self, request: Request) -> Response:
        if self._fault == "refused" or not (await request.json())["messages"]:
            return JSONResponse({"error": REFUSAL}, 401)
        return self._events(0)

    async def _follow(self, request: Request) -> Response:
        last_id = request.headers.get("last-event-id", "")
        back = 1 if last_id and self._fault == "repeats" else 0
        return self._events(int(last_id or "0") - back)

    def _events(self, at: int) -> Response:
        headers = {"Location": "/api/v1/ai/calls/r1/stream"}
        return StreamingResponse(self._lines(at), headers=headers, media_type="text/event-stream")

    async def _lines(self, at: int) -> AsyncIterator[str]:
        yield "retry: 1000\n\n: \n\n"
        for number in range(at, len(TEXT)):
            if self._fault == "error in the middle" and number == 50:
                yield f"event: error\ndata: {json.dumps({'error': FAILURE})}\n\n"
                return
            yield self._message(number + 1, TEXT[number])
        if self._fault != "no final event":
            yield self._message(len(TEXT), "", final=True)
        if self._fault != "no done":
            yield 'event: done\ndata: {"status":"completed"}\n\n'

    @staticmethod
    def _message(number: int, delta: str, *, final: bool = False) -> str:
        data = {"delta": delta, "type": "text", "metadata": {}, "is_final": final}
        return f"id: {number}\nevent: message\ndata: {json.dumps(data)}\n\n"

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        assert (await socket.receive_json())["type"] == "chat"
        await socket.send_json({"type": "accepted", "requestId": "r2"})
        if self._fault == "socket drops":
            await socket.close(1011)
            return
        chunk = {"type": "chunk", "metadata": {}, "chunk_type": "text"}
        for character in "" if self._fault == "empty socket" else TEXT:
            await socket.send_json({**chunk, "delta": character, "is_final": False})
        if self._fault == "error on the socket":
            await socket.send_json({"type": "error", "error": FAILURE})
        else:
            if self._fault != "no final message":
                await socket.send_json({**chunk, "delta": "", "is_final": True})
            await socket.send_json({"type": "done", "status": "completed"})
        await socket.close()
