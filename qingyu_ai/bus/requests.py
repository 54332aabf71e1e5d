"""Requests of one NATS connection and their replies, which all come to one inbox.

A request whose owner keeps the time (`request`) outlives a short loss of the connection, and a vote among the servers of the
stream that it is for. One that is waited for (`ask`) is told at once that its answer is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Protocol

from .headers import STATUS
from .transport import Headers, OnReply
from .transport_errors import Disconnected, NoResponders, ReplyTimeout, TransportError

PATIENCE = 0.5
"""Seconds after a loss of the connection for which what is asked waits for the next one. To another server of a cluster it takes
a few milliseconds; a broker that is gone for longer is to be told at once."""

RESEND_SECONDS = 0.1
VOTE_SECONDS = 10.0
"""For which a request is made again when nobody listens; who made it mostly forgets it sooner. A vote is over in nine seconds."""

Reply = tuple[bytes, Headers | None]


class Connection(Protocol):
    """What is needed of a connection."""

    @property
    def connected(self) -> bool:
        """See `transport.Bus.connected`."""

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"") -> None:
        """See `transport.Bus.publish`."""


@dataclass(slots=True)
class _Kept:
    """A request whose owner keeps the time."""

    subject: str
    data: bytes
    headers: bytes
    on_reply: OnReply
    began: float


class Requests:
    """Those of one connection.

    Args:
        inbox: prefix of the subjects on which replies come: `<inbox>.<token>`.
    """

    def __init__(self, connection: Connection, inbox: str) -> None:
        self._connection = connection
        self.inbox = inbox
        self._prefix_length = len(inbox) + 1
        self._next_token = 0
        self._waiting: dict[int, OnReply] = {}
        self._asked: set[asyncio.Future[Reply]] = set()
        self._kept: dict[int, _Kept] = {}
        """Told when their answers are lost with the connection."""
        self._held: set[int] = set()
        """Those of them that wait for the next connection."""
        self._back = asyncio.Event()
        self._lost_at = 0.0

    def __repr__(self) -> str:
        return f"<Requests {len(self)} waiting, {len(self._held)} for the next connection>"

    def __len__(self) -> int:
        return len(self._waiting) + len(self._kept)

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _send(self, token: int, subject: str, data: bytes, headers: bytes) -> None:
        self._connection.publish(subject, data, reply=f"{self.inbox}.{token}", headers=headers)

    def on_inbox(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        """A reply has come."""
        token = int(subject[self._prefix_length :])
        kept = self._kept.get(token)
        if kept is not None:
            self._on_answer(token, kept, data, headers)
        elif on_reply := self._waiting.pop(token, None):
            on_reply(data, headers)

    def forget(self, token: int) -> None:
        """A reply is no longer wanted."""
        if self._kept.pop(token, None) is None:
            self._waiting.pop(token, None)
        self._held.discard(token)

    # Loss and return of the connection.

    @property
    def _just_lost(self) -> bool:
        return not self._connection.connected and time.monotonic() - self._lost_at < PATIENCE

    def on_lost(self) -> None:
        """The connection is gone, and with it the answers that were on their way."""
        self._lost_at = time.monotonic()
        self._back.clear()
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(Disconnected("the connection to NATS was lost before the answer came"))
        asyncio.get_running_loop().call_later(PATIENCE, self._give_up, self._lost_at)

    def on_back(self) -> None:
        """There is a new connection."""
        self._back.set()
        held, self._held = self._held, set()
        for token in sorted(held):
            kept = self._kept[token]
            with contextlib.suppress(TransportError):
                self._send(token, kept.subject, kept.data, kept.headers)

    def _give_up(self, lost_at: float) -> None:
        """Tell those who wait for answers that there are none: the connection is gone for longer than a moment."""
        if self._connection.connected or lost_at != self._lost_at:
            return  # it is back, or was lost again meanwhile
        self._held.clear()
        kept, self._kept = self._kept, {}
        for one in kept.values():
            one.on_reply(b"", None)

    # Requests whose owners keep the time.

    def request(self, subject: str, data: bytes, on_reply: OnReply, headers: bytes) -> int:
        """See `transport.Bus.request`."""
        token = self._token()
        try:
            self._send(token, subject, data, headers)
        except Disconnected:
            if not self._just_lost:
                raise
            self._held.add(token)
        self._kept[token] = _Kept(subject, data, headers, on_reply, time.monotonic())
        return token

    def _on_answer(self, token: int, kept: _Kept, data: bytes, headers: Headers | None) -> None:
        """Hand it over; or ask again, if nobody listens.

        A stream whose servers vote has nobody, and nothing was stored by asking.
        """
        nobody = headers is not None and not data and headers.get(STATUS) == "503"
        if nobody and time.monotonic() - kept.began <= VOTE_SECONDS:
            asyncio.get_running_loop().call_later(RESEND_SECONDS, self._again, token)
            return
        del self._kept[token]
        kept.on_reply(data, headers)

    def _again(self, token: int) -> None:
        kept = self._kept.get(token)
        if kept is None or token in self._held:
            return
        try:
            self._send(token, kept.subject, kept.data, kept.headers)
        except TransportError:
            self.forget(token)
            kept.on_reply(b"", None)

    # Requests that are waited for.

    async def ask(self, subject: str, data: bytes, timeout: float, headers: bytes) -> Reply:
        """See `transport.Bus.ask`."""
        loop = asyncio.get_running_loop()
        if self._just_lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timeout, PATIENCE)):
                    await self._back.wait()
        answer: asyncio.Future[Reply] = loop.create_future()

        def arrived(data: bytes, headers: Headers | None) -> None:
            if not answer.done():
                answer.set_result((data, headers))

        def late() -> None:
            if not answer.done():
                answer.set_exception(ReplyTimeout(f"no reply from {subject} within {timeout:.3g} s"))

        token = self._token()
        self._send(token, subject, data, headers)
        self._waiting[token] = arrived
        self._asked.add(answer)
        timer = loop.call_later(timeout, late)
        try:
            body, reply_headers = await answer
        finally:
            timer.cancel()
            self._asked.discard(answer)
            self.forget(token)
        if reply_headers and reply_headers.get(STATUS) == "503" and not body:
            raise NoResponders(subject)
        return body, reply_headers

    async def echo(self, timeout: float) -> None:
        """Send ourselves a message, and wait until it is here.

        Raises:
            Disconnected: it does not come.
        """
        back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        token = self._token()
        self._waiting[token] = lambda data, headers: None if back.done() else back.set_result(None)
        try:
            self._connection.publish(f"{self.inbox}.{token}", b"")
            async with asyncio.timeout(timeout):
                await back
        except TimeoutError:
            raise Disconnected("NATS does not answer") from None
        finally:
            self.forget(token)
