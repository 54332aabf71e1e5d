"""The broker as NATS: one connection of one process (decision record 0003 tells what is done differently from nats-py).

- Messages are handled where they are read, and publishes are written where they are made (see `client`).
- Sizes are checked here, headers included: the server answers one byte too many by closing the connection for good.
- Nothing is published while there is no connection: nats-py would keep it and send it long after its caller gave up. A request
  waits for the next connection, for half a second at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

import nats
import structlog
from nats.aio.subscription import Subscription as NatsSubscription
from nats.js import JetStreamContext

from qingyu_ai.settings import without_password

from . import topology
from .client import DirectClient
from .ordered import OrderedReader
from .pull import StandingPull
from .requests import Requests
from .stream_api import API_TIMEOUT, StreamApi
from .transport import (
    Backlog,
    Delivery,
    Headers,
    Hook,
    OnFrame,
    OnMessage,
    OnReply,
    Puller,
    Queue,
    Stored,
    Subscription,
    Usage,
    expecting,
    parse_ack,
)
from .transport_errors import Disconnected, NoResponders, PayloadTooLarge, StoreRefused, TransportError

log = structlog.get_logger(__name__)

MAX_SUBJECT = 512
SAME_ERROR_EVERY = 10.0
"""Seconds between two log lines about the same error of the connection."""

MAX_UNSENT = 64 * 1024 * 1024
"""Bytes that may wait for the socket; a broker that takes nothing must not fill our memory."""


class NatsBus:
    """See `transport.Bus`."""

    def __init__(self, name: str) -> None:
        self._nc = DirectClient()
        self._name = name
        self.max_payload = 0
        self._connections = 1
        self._streams = StreamApi(self.ask)
        self._requests = Requests(self, f"_INBOX.{name}.{secrets.token_hex(8)}")
        self._on_reconnect: list[Hook] = []
        self._closing = False
        self._pulls: set[StandingPull] = set()
        self._readers: set[OrderedReader] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._js: JetStreamContext = self._nc.jetstream(timeout=API_TIMEOUT)

    def __repr__(self) -> str:
        state = "connected" if self.connected else "closed" if self._nc.is_closed else "reconnecting"
        return f"<NatsBus {self._name}: {state}, {self.waiting} requests waiting, {len(self._tasks)} tasks>"

    @classmethod
    async def open(cls, servers: list[str], name: str, on_closed: Callable[[], None]) -> NatsBus:
        """Connect, and stay connected until `close`.

        Args:
            servers: nats:// addresses.
            name: shown in NATS monitoring, and part of the inbox prefix.
            on_closed: called if the connection is closed for good though nobody asked; the process should end then.

        Raises:
            Disconnected: no server answers.
        """
        bus = cls(name)

        shown = [without_password(server) for server in servers]

        async def closed() -> None:
            if not bus._closing:
                log.critical("bus_closed", servers=shown)
                on_closed()

        told: dict[str, float] = {}

        async def failed(error: Exception) -> None:
            # While the broker is gone, each attempt to reach it fails alike: say so now and then.
            text, now = str(error) or type(error).__name__, time.monotonic()
            if now - told.get(text, -SAME_ERROR_EVERY) >= SAME_ERROR_EVERY:
                told.clear()
                told[text] = now
                log.warning("bus_error", error=text)

        async def disconnected() -> None:
            if not bus._closing:
                log.warning("bus_disconnected", servers=shown)
            bus._requests.on_lost()

        try:
            await bus._nc.connect(
                servers=servers,
                name=name,
                inbox_prefix=f"_INBOX.{name}",
                error_cb=failed,
                disconnected_cb=disconnected,
                reconnected_cb=bus._reconnected,
                closed_cb=closed,
                max_reconnect_attempts=3,  # while connecting for the first time; -1 below
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds, passed to asyncio.sleep
                connect_timeout=3,
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=0,  # keep nothing for later while there is no connection
            )
        except (OSError, nats.errors.Error, TimeoutError) as e:
            raise Disconnected(f"no NATS server at {', '.join(shown)}: {e}") from e
        bus._nc.options["max_reconnect_attempts"] = -1
        bus.max_payload = bus._nc.max_payload
        await bus.subscribe(f"{bus.inbox}.*", bus._requests.on_inbox)
        return bus

    @property
    def jetstream(self) -> JetStreamContext:
        """The management API, for `topology`."""
        return self._js

    @property
    def connections(self) -> int:
        """See `transport.Bus.connections`."""
        return self._connections

    @property
    def inbox(self) -> str:
        """Where replies to this process arrive: `<inbox>.<token>`."""
        return self._requests.inbox

    @property
    def waiting(self) -> int:
        """See `transport.Bus.waiting`."""
        return len(self._requests)

    @property
    def connected(self) -> bool:
        """See `transport.Bus.connected`."""
        return self._nc.is_connected

    @property
    def unsent_bytes(self) -> int:
        """See `transport.Bus.unsent_bytes`."""
        return self._nc.unsent_bytes

    @property
    def client_id(self) -> int | None:
        """The number that the server gave this connection; it changes when the connection is lost."""
        return self._nc.client_id

    def on_reconnect(self, hook: Hook) -> None:
        """See `transport.Bus.on_reconnect`."""
        self._on_reconnect.append(hook)

    async def _reconnected(self) -> None:
        log.info(
            "bus_reconnected", server=self._nc.connected_url.netloc.rpartition("@")[2] if self._nc.connected_url else ""
        )
        self._connections += 1
        self._requests.on_back()
        for pull in self._pulls:
            pull.reset()
        for reader in self._readers:
            reader.mend("reconnected")
        # After those, because a hook that looks at streams may wait for a vote among servers, and what it makes is there for
        # them later too.
        for hook in self._on_reconnect:
            try:
                await hook()
            except Exception:
                log.exception("reconnect_hook_failed")
        for pull in self._pulls:
            pull.renew()

    # Core messages.

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"") -> None:
        """See `transport.Bus.publish`."""
        if not self._nc.is_connected:
            raise Disconnected("no connection to NATS")
        size = len(data) + len(headers)
        if size > self.max_payload or len(subject) + len(reply) > MAX_SUBJECT:
            raise PayloadTooLarge(size, self.max_payload)
        if self._nc.unsent_bytes > MAX_UNSENT:
            raise Disconnected(f"NATS takes nothing: {self._nc.unsent_bytes} bytes wait to be sent")
        self._nc.publish_direct(subject, reply, data, headers)

    def request(self, subject: str, data: bytes, on_reply: OnReply, *, headers: bytes = b"") -> int:
        """See `transport.Bus.request`."""
        return self._requests.request(subject, data, on_reply, headers)

    def forget(self, token: int) -> None:
        """See `transport.Bus.forget`."""
        self._requests.forget(token)

    async def ask(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b""
    ) -> tuple[bytes, Headers | None]:
        """See `transport.Bus.ask`."""
        return await self._requests.ask(subject, data, timeout, headers)

    async def subscribe(self, subject: str, handler: OnMessage, *, queue: str = "") -> Subscription:
        """See `transport.Bus.subscribe`."""
        interest = _Interest(self._nc, await self._nc.subscribe_direct(subject, queue, handler))
        try:
            await self._arrived()
        except BaseException:
            await interest.stop()
            raise
        return interest

    async def _arrived(self) -> None:
        """Wait until the server has handled all that was sent so far, by sending ourselves a message behind it.

        nats-py's own `flush` does not do: its PING goes straight to the socket, ahead of what still waits to be written.

        Raises:
            Disconnected: the server does not answer.
        """
        await self._requests.echo(API_TIMEOUT)

    # Streams.

    async def store(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b"", expect: int | None = None
    ) -> int:
        """See `transport.Bus.store`."""
        if expect is not None:
            headers = expecting(expect)
        try:
            body, _ = await self.ask(subject, data, timeout=timeout, headers=headers)
        except NoResponders:
            raise StoreRefused(subject, 503, "no stream captures this subject") from None
        return parse_ack(subject, body)

    async def last(self, stream: str, subject: str, *, timeout: float, newest: bool = False) -> Stored | None:
        """See `transport.Bus.last`."""
        return await self._streams.last(stream, subject, timeout=timeout, newest=newest)

    async def next(self, stream: str, subject: str, sequence: int, *, timeout: float) -> Stored | None:
        """See `transport.Bus.next`."""
        return await self._streams.next(stream, subject, sequence, timeout=timeout)

    async def drop(self, stream: str, subject: str, *, timeout: float) -> None:
        """See `transport.Bus.drop`."""
        await self._streams.drop(stream, subject, timeout=timeout)

    async def generation(self, stream: str) -> str:
        """See `transport.Bus.generation`."""
        return await self._streams.generation(stream)

    async def used(self, stream: str) -> Usage:
        """See `transport.Bus.used`."""
        return await self._streams.used(stream)

    async def backlog(self, queue: Queue) -> Backlog:
        """See `transport.Bus.backlog`."""
        return await self._streams.backlog(queue)

    async def follow(
        self, stream: str, subject: str, handler: OnFrame, on_stream: Callable[[str], None], *, from_start: bool
    ) -> Subscription:
        """See `transport.Bus.follow`."""
        reader = OrderedReader(self, self._js, stream, subject, handler, on_stream)
        try:
            await reader.start(from_start=from_start)
        except BaseException as e:
            await reader.stop()
            if isinstance(e, nats.errors.Error | TimeoutError):
                raise Disconnected(f"{stream} cannot be read: {e}") from e
            raise
        self._readers.add(reader)
        return reader

    def dismiss(self, reader: OrderedReader) -> None:
        """A reader has stopped."""
        self._readers.discard(reader)

    async def pull(self, queue: Queue, free: Callable[[], int], handler: Callable[[Delivery], None]) -> Puller:
        """See `transport.Bus.pull`."""
        puller = StandingPull(self, queue, free, handler)
        await puller.start()
        self._pulls.add(puller)
        return puller

    async def ensure_topology(self, settings: Any) -> None:
        """Make the streams and buckets (see `topology.ensure`)."""
        await topology.ensure(self._js, settings)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the handlers, and keep hold of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """See `transport.Bus.close`."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if not self._nc.is_closed:
            if self._nc.is_connected:
                # What was published last (acks, end frames) must leave before the socket closes.
                with contextlib.suppress(TransportError):
                    await self._arrived()
            await self._nc.close()


class _Interest:
    """See `transport.Subscription`."""

    def __init__(self, client: DirectClient, sub: NatsSubscription) -> None:
        self._client = client
        self._sub = sub

    async def stop(self) -> None:
        await self._client.unsubscribe_direct(self._sub)
