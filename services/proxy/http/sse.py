"""Server-sent events: one for each chunk, with the id from which a reader that was cut off goes on.

Ours, and not sse-starlette's `EventSourceResponse`: that pings by the clock instead of after silence, cannot answer a refusal
with a status of its own, and changes uvicorn's class `Server` when it is imported (decision 0014).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.proxy.errors import AIProxyError
from services.proxy.models import StreamChunk

from .answers import defect, encode, error_body
from .pump import Pump
from .reading import ended, gone
from .spans import left, told

FIRST_SECONDS, FOLLOW_SECONDS = 0.5, 2.5
"""How long a refusal may take to be answered with its own status; after that the stream begins and says it inside. Who follows a
call that is not there waits for a bridge that asks all the others."""

SEND_SECONDS = 60.0
"""A client that takes nothing for so long has gone."""

RETRY_MS = 1000
"""After which a browser comes back."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}
SILENCE = b": \n\n"
DONE = b'event: done\ndata: {"status":"completed"}\n\n'
OPENING = f"retry: {RETRY_MS}\n\n".encode()


def event_of(chunk: StreamChunk) -> bytes:
    """Write a chunk."""
    data = encode(
        {"delta": chunk.delta, "type": chunk.chunk_type, "metadata": chunk.metadata, "is_final": chunk.is_final}
    )  # JSON has no line break in it
    return b"id: %b\nevent: message\ndata: %b\n\n" % (chunk.event_id.encode(), data)


def error_event(error: AIProxyError) -> bytes:
    """Write the error after which a stream ends without `done`."""
    return b"event: error\ndata: %b\n\n" % error_body(error)


class EventStream(Response):
    """Writes a stream.

    Args:
        chunks: the stream; a refusal raises before its first chunk.
        headers: more of them.
        silence_seconds: after which a comment is sent.
        comes_back: the client asks again by itself if it is cut off, but not if it is refused: what waiting may mend cuts it off.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[StreamChunk, None],
        headers: dict[str, str],
        silence_seconds: float,
        *,
        comes_back: bool,
    ) -> None:
        super().__init__(None, 200, {**HEADERS, **headers})
        del self.headers["content-length"]
        self._chunks = chunks
        self._silence_seconds = silence_seconds
        self._comes_back = comes_back
        self._sending_since: float | None = None

    @property
    def _stuck(self) -> bool:
        """Whether the client takes nothing any more."""
        return self._sending_since is not None and time.monotonic() - self._sending_since > SEND_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI.

        Raises:
            AIProxyError: it was refused, and nothing has been sent.
        """
        request = Request(scope, receive, send)
        async with Pump(self._chunks, self.headers.get("x-request-id", "")) as pump:
            writing = asyncio.get_running_loop().create_task(self._write(pump, send))
            leaving = asyncio.get_running_loop().create_task(gone(request))
            try:
                both, done = {writing, leaving}, set[asyncio.Task[None]]()
                while not done and not self._stuck:
                    done, _ = await asyncio.wait(both, timeout=SEND_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    writing.result()
                else:
                    left()
            finally:
                await ended(writing, leaving)

    async def _write(self, pump: Pump, send: Send) -> None:
        try:
            chunks = await pump.take(FOLLOW_SECONDS if self._comes_back else FIRST_SECONDS)
        except AIProxyError as e:
            if not (self._comes_back and e.retryable):
                raise
            told(e)
            await self._open(send)
            await send({"type": "http.response.body", "body": OPENING})
            return
        await self._open(send)
        body = OPENING + b"".join([event_of(chunk) for chunk in chunks])
        try:
            while not pump.over:
                await self._send(send, body)
                chunks = await pump.take(self._silence_seconds)
                body = b"".join([event_of(chunk) for chunk in chunks]) or SILENCE
            last = DONE
        except AIProxyError as e:
            told(e)
            last = b"" if self._comes_back and e.retryable else error_event(e)
        except Exception:
            error = defect(streams="sse")
            told(error)
            last = error_event(error)
        await self._send(send, last, more=False)

    async def _open(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        self._sending_since = time.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self._sending_since = None
