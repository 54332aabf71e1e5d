"""Stores events that must not be shed. At most one publish is on its way; what comes meanwhile goes out together, in one atomic
batch with one acknowledgement. Nothing is delayed in order to be batched, and a batch that is refused is stored one by one.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from typing import NamedTuple

import msgspec
import structlog

from qingyu_ai.bus.patience import patiently
from qingyu_ai.bus.transport import Bus, parse_ack
from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.settings import Bus as BusSettings

log = structlog.get_logger(__name__)

BATCH, BATCH_SEQUENCE, BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
"""Headers of an atomic batch (nats-server 2.12 and later): its name, the place of a message in it, and `1` on the last one."""

LATE_SECONDS = 0.25
"""Of an answer. It takes milliseconds, unless more is published than the broker's disk can take."""

MOST, MOST_BYTES = 64, 512 * 1024
"""Of one batch."""

END = b"\r\n"


class Kept(NamedTuple):
    """An event that waits to be stored."""

    id: str
    subject: str
    data: bytes
    headers: bytes
    """With its id as the message id: to store it twice stores it once."""
    stored: asyncio.Future[None]


class Keeper:
    """Of one process."""

    def __init__(self, bus: Bus, settings: BusSettings) -> None:
        self._bus = bus
        self._settings = settings
        self._waiting: list[Kept] = []
        self._name = secrets.token_hex(6)
        self._batches = itertools.count(1)
        self._sent_at = 0.0
        """When what is on its way was sent; 0: nothing is."""
        self._task: asyncio.Task[None] | None = None
        self._singles: set[asyncio.Task[None]] = set()

    @property
    def late(self) -> bool:
        """Whether the stream has not answered for a while: nothing is to be added that may be shed."""
        return self._sent_at > 0 and time.monotonic() - self._sent_at > LATE_SECONDS

    async def keep(self, id: str, subject: str, data: bytes, headers: bytes) -> None:
        """Store an event.

        Raises:
            TransportError: the stream did not take it within `patience_seconds`.
        """
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        self._waiting.append(Kept(id, subject, data, headers, stored))
        if self._task is None:
            self._task = loop.create_task(self._store_all())
        await stored

    async def _store_all(self) -> None:
        try:
            while self._waiting:
                self._sent_at = time.monotonic()
                await self._store(self._next())
        finally:
            self._sent_at = 0.0
            self._task = None

    def _next(self) -> list[Kept]:
        """Take what goes out together. The server refuses a batch with two messages of one id."""
        batch: dict[str, Kept] = {}
        later: list[Kept] = []
        size = 0
        for one in self._waiting:
            size += len(one.data) + len(one.headers)
            if batch and (one.id in batch or len(batch) == MOST or size > MOST_BYTES):
                later.append(one)
            else:
                batch[one.id] = one
        self._waiting = later
        return list(batch.values())

    async def _store(self, batch: list[Kept]) -> None:
        if len(batch) > 1:
            try:
                whole = await self._commit(batch)
            except TransportError as e:
                # One of them is known already, or the stream is in trouble: each finds out for itself.
                log.debug("batch_refused", events=len(batch), error=str(e))
                whole = False
            except Exception:
                log.exception("batch_failed", events=len(batch))  # a defect must not leave jobs waiting for ever
                whole = False
            if whole:
                for one in batch:
                    _settle(one)
                return
        elif await self._store_now(batch[0]):
            return
        singles = [asyncio.get_running_loop().create_task(self._store_one(one)) for one in batch]
        self._singles.update(singles)
        for single in singles:
            single.add_done_callback(self._singles.discard)
        # A stream that takes nothing is asked for a while. What comes meanwhile must not wait for that to begin its own.
        await asyncio.wait(singles, timeout=self._settings.store_seconds)

    async def _commit(self, batch: list[Kept]) -> bool:
        """Send an atomic batch.

        Returns:
            Whether all of it is stored. Not: the server knows no batches.

        Raises:
            TransportError: it is not, or nobody knows.
        """
        name, last = f"{self._name}-{next(self._batches)}", len(batch)
        for n, one in enumerate(batch[:-1], 1):
            self._bus.publish(one.subject, one.data, headers=_in_batch(one.headers, name, n))
        one = batch[-1]
        body, _ = await self._bus.ask(
            one.subject,
            one.data,
            headers=_in_batch(one.headers, name, last, commit=True),
            timeout=self._settings.store_seconds,
        )
        parse_ack(one.subject, body)
        return bool(msgspec.json.decode(body).get("count") == last)

    async def _store_now(self, one: Kept) -> bool:
        """Store one, without a task of its own: most are alone, and stored at the first try.

        Returns:
            Whether it is stored. Not: `_store_one` finds out why.
        """
        try:
            await self._bus.store(one.subject, one.data, headers=one.headers, timeout=self._settings.store_seconds)
        except Exception as e:
            log.debug("event_not_stored_yet", id=one.id, error=str(e))
            return False
        _settle(one)
        return True

    async def _store_one(self, one: Kept) -> None:
        try:
            await patiently(
                lambda: self._bus.store(
                    one.subject, one.data, headers=one.headers, timeout=self._settings.store_seconds
                ),
                self._settings.patience_seconds,
            )
        except TransportError as e:
            _settle(one, e)
        except Exception:
            log.exception("event_failed", id=one.id)
            _settle(one, TransportError("the event could not be stored"))
        else:
            _settle(one)


def _settle(one: Kept, error: TransportError | None = None) -> None:
    if one.stored.done():
        return  # whoever waited is gone
    if error is None:
        one.stored.set_result(None)
    else:
        one.stored.set_exception(error)


def _in_batch(headers: bytes, name: str, n: int, *, commit: bool = False) -> bytes:
    last = f"{BATCH_COMMIT}: 1\r\n" if commit else ""
    return b"".join((headers[: -len(END)], f"{BATCH}: {name}\r\n{BATCH_SEQUENCE}: {n}\r\n{last}".encode(), END))
