"""A bridge in the test's own process, on a real nats-server, called by a real gRPC client over TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from bench import echo_worker
from bridge import server
from bridge.doors import Doors
from bridge.handlers import DETAILS_KEY, Edge
from bridge.health import Health
from bridge.metrics import Metrics
from qingyu_ai import routes
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.discovery import Presence
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.settings import Bridge as BridgeSettings
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.settings import Settings
from tests.bus.conftest import FAST, clean
from tests.nats_cluster import AnyNats
from tests.waiting import eventually

Metadata = tuple[tuple[str, str], ...]


@dataclass
class Bridge:
    """A bridge and what belongs to it."""

    settings: Settings
    bus: NatsBus
    presence: Presence
    caller: Caller
    health: Health
    metrics: Metrics
    registry: CollectorRegistry
    edge: Edge
    server: grpc.aio.Server
    port: int
    channel: grpc.aio.Channel
    workers: list[tuple[Worker, NatsBus]] = field(default_factory=list)

    async def worker(self, kind: str = "chat", **handlers: Any) -> Worker:
        """Start a worker; without handlers, one that echoes."""
        bus = await NatsBus.open(self.settings.nats.servers, kind, on_closed=lambda: None)
        worker = Worker(bus, kind, self.settings.bus, slots=handlers.pop("slots", 64))
        if kind == "chat":
            worker.job(routes.CHAT, handlers.get("chat", echo_worker.chat), handlers.get("follow_up"))
            worker.stream(
                routes.CHAT_STREAM,
                handlers.get("stream", echo_worker.chat_stream),
                handlers.get("follow_up"),
                continues=handlers.get("continues", False),
            )
        elif kind == "rag":
            worker.rpc(routes.SEARCH, handlers.get("search", echo_worker.search))
            worker.job(routes.INDEX_DOCUMENT, handlers.get("index", echo_worker.index))
            worker.job(routes.DELETE_DOCUMENT, handlers.get("delete", echo_worker.delete))
        elif kind == "agent":
            worker.job(routes.EXECUTE_AGENT, handlers["agent"])
        elif kind == "tool":
            worker.rpc(routes.CALL_TOOL, handlers["tool"], token=handlers["name"])
        await worker.start()
        self.workers.append((worker, bus))
        await eventually(lambda: any(w.id == worker.token for w in self.presence.workers()))
        return worker

    async def leave(self) -> None:
        """Hang up, and stop the workers."""
        await self.channel.close()
        while self.workers:
            worker, bus = self.workers.pop()
            if not worker.draining:
                await worker.drain(1)
            await bus.close()

    def second(self) -> AbstractAsyncContextManager[Bridge]:
        """Another bridge of the same system."""
        return open_bridge(self.settings)

    def unary(self, route: routes.Route[Any, Any]) -> Any:
        """A unary method that takes bytes or a message and gives the reply message."""
        return self.channel.unary_unary(route.path, _encode, route.reply.FromString)

    def streaming(self, route: routes.Route[Any, Any]) -> Any:
        """A method whose reply is a stream."""
        return self.channel.unary_stream(route.path, _encode, route.reply.FromString)

    async def refused(
        self, route: routes.Route[Any, Any], request: Message | bytes, metadata: Metadata = (), timeout: float = 10
    ) -> Refusal:
        """Make a unary call that must fail."""
        call = self.unary(route)(request, metadata=metadata, timeout=timeout)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return Refusal.of(error.value)


def _encode(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


@dataclass
class Refusal:
    """A status and its details, as a client reads them."""

    code: grpc.StatusCode
    message: str
    fault: Fault
    request_id: str

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Refusal:
        trailing = dict(error.trailing_metadata() or ())
        initial = dict(error.initial_metadata() or ())
        encoded = trailing.get(DETAILS_KEY, b"")
        assert isinstance(encoded, bytes)
        return cls(
            error.code(), error.details() or "", Fault.from_status(encoded), str(initial.get("x-request-id", ""))
        )


def chat(text: str, **more: Any) -> ai.ChatRequest:
    """A chat of one message."""
    return ai.ChatRequest(messages=[common.Message(role="user", content=text)], **more)


@pytest.fixture
def bridge_settings() -> BridgeSettings:
    """Of this test's bridge; override to change them."""
    return BridgeSettings(port=0, expected_workers=("chat",))


@pytest.fixture
def bus_settings() -> BusSettings:
    """Times and sizes of this test's bus; override to change them."""
    return FAST


@pytest.fixture
async def bridge(
    nats_process: AnyNats, bridge_settings: BridgeSettings, bus_settings: BusSettings
) -> AsyncIterator[Bridge]:
    """A running bridge without workers."""
    settings = Settings(bus=bus_settings, bridge=bridge_settings, nats={"url": nats_process.url})  # type: ignore[arg-type]
    await clean(nats_process, settings.bus)
    async with open_bridge(settings) as running:
        yield running


@asynccontextmanager
async def open_bridge(settings: Settings) -> AsyncIterator[Bridge]:
    """Run a bridge. Leaving it sees that nothing is left of its calls."""
    bus = await NatsBus.open(settings.nats.servers, "bridge", on_closed=lambda: None)
    presence = Presence(bus, f"{bus.inbox}.srv.presence")
    caller = Caller(bus, settings.bus, presence)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.watch(caller)
    doors = await Doors.open(settings.bridge)
    health = Health(bus, presence, settings, metrics, doors.unready)
    edge = Edge(caller, health, settings, metrics, doors)
    async with AsyncExitStack() as stack:  # also a test that fails leaves nothing behind: what is left breaks others
        stack.push_async_callback(bus.close)
        stack.push_async_callback(doors.close)
        await presence.start()
        stack.push_async_callback(presence.stop)
        await caller.start()
        stack.push_async_callback(caller.stop)
        await health.start()
        stack.callback(health.stop)
        grpc_server, port = await server.start(edge, health, settings.bridge)
        stack.push_async_callback(grpc_server.stop, 0.5)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)])
        running = Bridge(
            settings, bus, presence, caller, health, metrics, registry, edge, grpc_server, port, channel
        )  # fmt: skip
        stack.push_async_callback(running.leave)
        client_id = bus.client_id
        await eventually(lambda: presence.settled)
        yield running
        await running.leave()
        await eventually(lambda: edge.open == 0 and not caller.readers.tasks)
        assert bus.client_id == client_id, "the bridge lost its connection to NATS"
        assert not caller.readers._open
