"""One standing pull request for jobs per worker, renewed before it runs dry, never larger than the free slots.

A job's acknowledgement clock starts when the broker sends it, so a worker must not hold jobs it cannot start.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from .headers import STATUS
from .transport import Delivery, Headers, Queue, Subscription
from .transport_errors import Disconnected

if TYPE_CHECKING:
    from .connection import NatsBus

log = structlog.get_logger(__name__)

EXPIRES = 30.0
"""Seconds that one request stands."""

ACK = "$JS.ACK."
"""Where a job is acknowledged: nothing of a worker's goes anywhere else."""

HEARTBEAT = 5.0
"""Seconds between the server's signs of life on a standing request."""


class NatsDelivery:
    """See `transport.Delivery`."""

    __slots__ = ("_bus", "_reply", "data", "delivery", "headers", "sequence", "stored_ns", "subject")

    def __init__(self, bus: NatsBus, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        parts = reply.split(".")
        at = 5 if len(parts) == 9 else 7
        self._bus = bus
        self._reply = reply
        self.subject = subject
        self.data = data
        self.headers = headers
        self.delivery = int(parts[at - 1])
        self.sequence = int(parts[at])
        self.stored_ns = int(parts[at + 2])

    @property
    def pending(self) -> int:
        """Messages behind this one that its consumer has not sent yet."""
        parts = self._reply.split(".")
        return int(parts[8] if len(parts) == 9 else parts[10])

    @property
    def place(self) -> int:
        """Its number among all that its consumer has sent, what was sent again included."""
        parts = self._reply.split(".")
        return int(parts[6] if len(parts) == 9 else parts[8])

    def ack(self) -> None:
        """See `transport.Delivery.ack`."""
        self._answer(b"+ACK")

    def nak(self, delay_seconds: float = 0) -> None:
        """See `transport.Delivery.nak`."""
        self._answer(b'-NAK {"delay": %d}' % int(delay_seconds * 1e9) if delay_seconds else b"-NAK")

    def term(self) -> None:
        """See `transport.Delivery.term`."""
        self._answer(b"+TERM")

    def in_progress(self) -> None:
        """See `transport.Delivery.in_progress`."""
        self._answer(b"+WPI")

    def _answer(self, word: bytes) -> None:
        try:
            self._bus.publish(self._reply, word)
        except Disconnected:
            # The job comes again after its ack wait; whoever gets it reads the record first.
            log.warning("job_answer_lost", word=word.decode(), sequence=self.sequence)


class StandingPull:
    """See `transport.Puller`."""

    def __init__(
        self, bus: NatsBus, queue: Queue, free: Callable[[], int], handler: Callable[[Delivery], None]
    ) -> None:
        self._bus = bus
        self._api = f"$JS.API.CONSUMER.MSG.NEXT.{queue.stream}.{queue.consumer}"
        self._free = free
        self._handler = handler
        self._outstanding = 0
        self._heard = 0.0
        self._requests = 0
        self._inbox = f"{bus.inbox}.p{id(self)}"
        self._interest: Subscription | None = None
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<StandingPull {self._api}: {self._outstanding} asked for, {self._free()} free>"

    async def start(self) -> None:
        """Ask for the first jobs."""
        self._interest = await self._bus.subscribe(f"{self._inbox}.*", self._on_message)
        self._watch = asyncio.get_running_loop().create_task(self._keep())
        self.renew()

    def renew(self) -> None:
        """See `transport.Puller.renew`."""
        free = self._free()
        wanted = free - self._outstanding
        # Ask in lots: one request for each finished job would double the messages.
        if self._interest is None or wanted <= 0 or self._outstanding > free // 2:
            return
        self._requests += 1
        request = {"batch": wanted, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        try:
            self._bus.publish(self._api, json.dumps(request).encode(), reply=f"{self._inbox}.{self._requests}")
        except Disconnected:
            return  # `_keep` asks again
        self._outstanding += wanted
        self._heard = time.monotonic()

    async def stop(self) -> None:
        """See `transport.Puller.stop`."""
        if self._watch is not None:
            self._watch.cancel()
        interest, self._interest = self._interest, None
        if interest is not None:
            await interest.stop()

    def _on_message(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        self._heard = time.monotonic()
        if not subject.startswith(self._inbox):
            if not reply.startswith(ACK):
                log.error("delivery_without_ack_subject", subject=subject)
                return
            self._outstanding = max(0, self._outstanding - 1)
            self._handler(NatsDelivery(self._bus, subject, reply, data, headers))
            return
        status = (headers or {}).get(STATUS)
        if status == "100":
            return
        # 408 expired, 404 nothing there, 409 consumer or server gone: what was not delivered is no longer asked for.
        pending = (headers or {}).get("Nats-Pending-Messages")
        self._outstanding = max(0, self._outstanding - int(pending)) if pending else 0
        if status == "408":
            self.renew()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._outstanding and time.monotonic() - self._heard > 2.5 * HEARTBEAT:
                log.warning("job_pull_silent", api=self._api)
                self._outstanding = 0
            self.renew()

    def reset(self) -> None:
        """After a reconnection: the server forgot every request."""
        self._outstanding = 0
        self.renew()
