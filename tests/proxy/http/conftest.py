"""The HTTP face on a port of its own, with a real bridge behind it; called by clients over TCP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from qingyu_ai.settings import AiProxy, Proxy
from services.proxy.http.app import Application
from services.proxy.http.doors import Doors
from services.proxy.http.face import Face
from services.proxy.http.server import Server, listen
from services.proxy.http.tickets import Tickets
from services.proxy.service import AIProxyService
from tests.bridge.conftest import Bridge

KEY = "k" * 32
ME = {"X-User-Id": "u1"}


@dataclass
class Site:
    """A proxy that runs."""

    port: int
    client: httpx2.AsyncClient
    face: Face

    @property
    def origin(self) -> str:
        """Its own."""
        return f"http://127.0.0.1:{self.port}"

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        """Post JSON as u1."""
        headers = ME | more.pop("headers", {})
        return await self.client.post(f"/api/v1/ai{path}", json=body, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        """Get as u1."""
        return await self.client.get(f"/api/v1/ai{path}", headers=ME | more.pop("headers", {}), **more)


Open = Callable[..., Awaitable[Site]]


@pytest.fixture
async def open_site(bridge: Bridge) -> AsyncIterator[Open]:
    """Start proxies that end with the test: `await open_site(max_body_bytes=2048)`."""
    async with AsyncExitStack() as stack:

        async def one(*, ai: dict[str, Any] | None = None, send_bytes: int = 0, **settings: Any) -> Site:
            own = Proxy(**{"port": 0, "drain_seconds": 1.0, "ticket_key": KEY, **settings})
            service = await AIProxyService.start(AiProxy(python_addr=f"127.0.0.1:{bridge.port}", **(ai or {})))
            stack.push_async_callback(service.close)
            tickets = Tickets(own.ticket_key.get_secret_value())
            doors = await Doors.open(own, tickets)
            stack.push_async_callback(doors.close)
            face = Face(service, own, doors, tickets)
            listener, stop = listen(own), asyncio.Event()
            if send_bytes:  # what the kernel holds for a client that does not read; accepted sockets inherit it
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
            port = listener.getsockname()[1]
            serving = asyncio.create_task(Server(Application(face), own).run_until(stop, listener))

            async def end() -> None:
                stop.set()
                await serving
                listener.close()

            stack.push_async_callback(end)
            client = await stack.enter_async_context(
                httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)
            )
            return Site(port, client, face)

        yield one


@pytest.fixture
async def site(open_site: Open) -> Site:
    """One proxy with default settings."""
    return await open_site()
