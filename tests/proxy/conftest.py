"""The AI Proxy on a bridge in the test's own process, over TCP, with a real nats-server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.routes import EXECUTE_AGENT_STREAM, ROUTES, Route
from qingyu_ai.settings import AiProxy
from services.proxy.models import ChatRequest, Message, StreamChunk
from services.proxy.service import AIProxyService
from services.proxy.who import Who
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.bridge.conftest import bus_settings as bus_settings
from tests.waiting import eventually

ME = Who("u1", "p1")

Start = Callable[..., Awaitable[AIProxyService]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start services that end with the test: `await start(port, max_retries=2)`."""
    async with AsyncExitStack() as stack:

        async def one(*ports: int, **settings: Any) -> AIProxyService:
            addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
            service = await AIProxyService.start(AiProxy(python_addr=f"ipv4:{addresses}", **settings))
            stack.push_async_callback(service.close)
            return service

        yield one


def asked(text: str = "夜雨", **more: Any) -> ChatRequest:
    """A chat of one message."""
    return ChatRequest(messages=[Message(role="user", content=text)], **more)


async def heard(chunks: Any) -> list[StreamChunk]:
    """All chunks of a stream."""
    async with aclosing(chunks):
        return [chunk async for chunk in chunks]


async def agent_worker(bridge: Bridge, work: Any) -> None:
    """Start a worker of streaming agents."""
    bus = await NatsBus.open(bridge.settings.nats.servers, "agent", on_closed=lambda: None)
    worker = Worker(bus, "agent", bridge.settings.bus, slots=8)
    worker.stream(EXECUTE_AGENT_STREAM, work)
    await worker.start()
    bridge.workers.append((worker, bus))
    await eventually(lambda: bridge.presence.has("agent"))


@dataclass
class Peer:
    """A gRPC server that answers as a test says: for what no real bridge does at will."""

    port: int
    calls: list[tuple[str, dict[str, str], float | None]] = field(default_factory=list)
    """(method, metadata, seconds left) of each call."""
    answers: dict[str, Callable[[bytes, Any], Any]] = field(default_factory=dict)

    def on(self, route: Route[Any, Any], answer: Callable[[bytes, Any], Any]) -> None:
        """Answer a row: an async function for a unary one, an async generator for a stream."""
        self.answers[route.path] = answer

    def count(self, route: Route[Any, Any]) -> int:
        """How often a row was called."""
        return sum(method == route.path for method, _, _ in self.calls)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        route = next((r for r in ROUTES if r.path == details.method), None)
        answer = self._peer.answers.get(details.method)
        if route is None or answer is None:
            return None

        def note(context: Any) -> None:
            metadata = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
            self._peer.calls.append((details.method, metadata, context.time_remaining()))

        async def unary(body: bytes, context: Any) -> bytes:
            note(context)
            reply: bytes = (await answer(body, context)).SerializeToString()
            return reply

        async def stream(body: bytes, context: Any) -> AsyncIterator[bytes]:
            note(context)
            async for message in answer(body, context):
                yield message.SerializeToString()

        if details.method.endswith("Stream"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A scripted server."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    peer = Peer(port)
    server.add_generic_rpc_handlers((_Handler(peer),))
    await server.start()
    yield peer
    await server.stop(None)
