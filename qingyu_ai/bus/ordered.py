"""Reads a stream in its order through an ephemeral JetStream consumer that is made anew whenever it breaks.

The consumer counts what it delivers; a count that jumps, a missed heartbeat or a reconnection means that something may
be lost, so a new consumer starts after the last message that was handled. nats-py has the same idea in its ordered
consumer, but behind a queue and a task (decision record 0003).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from .headers import STATUS
from .transport import Headers, OnFrame, Subscription
from .transport_errors import TransportError

if TYPE_CHECKING:
    from .connection import NatsBus

log = structlog.get_logger(__name__)

HEARTBEAT = 0.5
"""Seconds of silence after which the server sends a heartbeat. The consumer has one copy: it is gone with its server, also when
this process is connected to another, and then only silence tells."""

ANSWER_SECONDS = 1.0
"""For one attempt at a new consumer. While the servers vote nobody answers, and what was asked then is never answered."""

LONGEST_DELAY = 0.5
"""Seconds between two attempts."""

FLOW = "$JS.FC."
"""Where the server waits for an answer of ours, and the only place where one goes."""

INACTIVE = 60.0
"""Seconds after which the server forgets a consumer that nobody listens to."""


class OrderedReader:
    """See `transport.Bus.follow`. One instance is one reader; `stop` ends it."""

    def __init__(
        self,
        bus: NatsBus,
        js: JetStreamContext,
        stream: str,
        subject: str,
        handler: OnFrame,
        on_stream: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._js = js
        self._stream = stream
        self._subject = subject
        self._handler = handler
        self._on_stream = on_stream
        self._incarnation = 0
        self._deliver = ""
        self._consumer = ""
        self._interest: Subscription | None = None
        self._generation = ""
        self._stream_seq = 0
        self._consumer_seq = 0
        self._heard = 0.0
        self._mending = False
        self._watch: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        return f"<OrderedReader {self._subject} at {self._stream_seq}, consumer {self._incarnation}>"

    async def start(self, *, from_start: bool) -> None:
        """Make the first consumer.

        Raises:
            TransportError, nats.errors.Error: the stream is not there, or the broker does not answer.
        """
        self._generation = await self._bus.generation(self._stream)
        self._on_stream(self._generation)
        await self._consume(DeliverPolicy.ALL if from_start else DeliverPolicy.NEW)
        self._watch = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """See `transport.Subscription.stop`."""
        self._stopped.set()
        self._bus.dismiss(self)
        if self._watch is not None:
            self._watch.cancel()
        interest, self._interest = self._interest, None
        if interest is not None:
            await interest.stop()
        self._delete(self._consumer)

    def _delete(self, consumer: str) -> None:
        """Take a consumer down; otherwise the server keeps it until it has been inactive for a minute."""
        if self._bus.connected and consumer:
            self._bus.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")

    async def _consume(self, policy: DeliverPolicy, start: int | None = None) -> None:
        self._incarnation += 1
        before = self._consumer
        token = f"o{id(self)}"
        self._deliver = f"{self._bus.inbox}.{token}.{self._incarnation}"
        # Named by us, so that its first messages are known for its own before its creation is answered.
        self._consumer = f"{self._bus.inbox.rpartition('.')[2]}-{token}-{self._incarnation}"
        self._consumer_seq = 0
        interest = await self._bus.subscribe(self._deliver, self._on_message)
        if self._stopped.is_set():
            await interest.stop()
            return
        old, self._interest = self._interest, interest
        if old is not None:
            await old.stop()
            self._delete(before)
        await self._js.add_consumer(
            self._stream,
            ConsumerConfig(
                name=self._consumer,
                deliver_subject=self._deliver,
                deliver_policy=policy,
                opt_start_seq=start,
                filter_subject=self._subject,
                ack_policy=AckPolicy.NONE,
                max_deliver=1,
                flow_control=True,
                idle_heartbeat=HEARTBEAT,
                inactive_threshold=INACTIVE,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        self._heard = time.monotonic()
        if self._stopped.is_set():
            self._delete(self._consumer)

    def _on_message(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        if subject == self._deliver:
            self._control(reply, headers or {})
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>, or with a domain and an
        # account after ACK.
        parts = reply.split(".")
        at = 5 if len(parts) == 9 else 7
        if parts[at - 2] != self._consumer:
            return  # an older incarnation
        self._heard = time.monotonic()
        if int(parts[at + 1]) != self._consumer_seq + 1:
            self.mend("gap")
            return
        self._consumer_seq += 1
        self._stream_seq = int(parts[at])
        self._handler(subject, self._stream_seq, data)

    def _control(self, reply: str, headers: Headers) -> None:
        self._heard = time.monotonic()
        if headers.get(STATUS) == "409":
            self.mend(headers.get("Description", "consumer deleted"))
            return
        # Flow control: the server waits for an answer, here or in a heartbeat that says so.
        answer = reply or headers.get("Nats-Consumer-Stalled", "")
        if answer.startswith(FLOW) and self._bus.connected:
            self._bus.publish(answer, b"")
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) != self._consumer_seq:
            self.mend("heartbeat")

    def mend(self, why: str) -> None:
        """Make a new consumer, after the last message that was handled."""
        if not self._mending:
            self._mending = True
            self._bus.spawn(self._again(why))

    async def _again(self, why: str) -> None:
        delay = 0.05
        try:
            while self._interest is not None:
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        generation = await self._bus.generation(self._stream)
                        if generation != self._generation:
                            # Another stream under the same name: its sequences start anew.
                            self._generation, self._stream_seq = generation, 0
                            self._on_stream(generation)
                        await self._consume(DeliverPolicy.BY_START_SEQUENCE, self._stream_seq + 1)
                    log.info("log_reader_mended", subject=self._subject, why=why, after=self._stream_seq)
                    return
                except (TransportError, nats.errors.Error, TimeoutError) as e:
                    log.warning("log_reader_waits", subject=self._subject, error=str(e) or type(e).__name__)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, LONGEST_DELAY)
        finally:
            self._mending = False

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT / 2)
            if self._bus.connected and time.monotonic() - self._heard > 3 * HEARTBEAT:
                self.mend("silence")
