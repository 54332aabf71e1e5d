"""A server that listens somewhere: streamable HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
from mcp.client.streamable_http import streamable_http_client

from qingyu_ai.settings import McpServer

HERE = ("127.0.0.1", "localhost", "::1")
"""Hosts to which no proxy leads."""


@contextlib.asynccontextmanager
async def address(settings: McpServer, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """Speak to a server, until the block is left.

    Args:
        headers: of each request.
    """
    async with (
        httpx2.AsyncClient(
            headers=dict(headers),
            # A stream of changes is silent for hours. How long a call may take is the caller's to watch.
            timeout=httpx2.Timeout(settings.connect_seconds, read=None),
            trust_env=urlsplit(settings.url).hostname not in HERE,
            event_hooks={"response": [_bound(settings.max_message_bytes)]},
        ) as client,
        streamable_http_client(
            settings.url, http_client=client, max_sse_event_size=settings.max_message_bytes
        ) as streams,
    ):
        yield streams


def _bound(most: int) -> Any:
    """A hook that bounds each body; of a stream of events, each event is bounded by the package."""

    async def bound(response: httpx2.Response) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, most)

    return bound


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._left = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for some in self._inner:
            self._left -= len(some)
            if self._left < 0:
                raise httpx2.ReadError("the server's answer is larger than max_message_bytes")
            yield some

    async def aclose(self) -> None:
        await self._inner.aclose()
