"""nats-py's client with two short cuts (decision record 0003).

- A message is handled where it is read: no queue and no task for each subscription.
- What is published in one turn of the event loop is written to the socket at its end, in one piece: no future and no wake-up of a
  flusher for each message, and one system call for all of them.

And with one rule: where the address says `tls://`, nothing of us is said on a connection that is not encrypted. nats-py
encrypts if the server's first line, which anybody on the way can change, says so.

Connecting, reconnecting, TLS, authentication, subscriptions and keepalive stay nats-py's. What is used of its insides:
`_process_msg`, `_process_err`, `_process_op_err`, `_pending`, `_pending_data_size`, `_transport`, its `_io_writer` and
`_bare_io_writer`, `_process_connect_init`, `_connect_command`, `_current_server`, `ssl_context`, `Subscription._id` and
`_closed`.
tests/bus/test_connection.py, test_transport.py, tests/doors/test_nats_tls.py and test_password_rotation.py hold it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from qingyu_ai.doors.login import REFUSED, Login

from . import headers as wire

log = structlog.get_logger(__name__)

Handler = Callable[[str, str, bytes, Mapping[str, str] | None], None]


class DirectClient(Client):
    """See the module."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login
        self._direct: dict[int, Handler] = {}
        self._unwritten: list[bytes] = []
        """Published in this turn of the loop."""
        self._unwritten_bytes = 0

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """For the next connection: of the certificates as they are now."""
        rotating = self._login.context
        return rotating.current if rotating is not None else super().ssl_context

    async def _process_connect_init(self) -> None:
        assert self._current_server is not None  # nats-py's own, by now
        self._login.passwords.at(self._current_server.uri.netloc)
        try:
            await super()._process_connect_init()
        except BaseException as e:
            if REFUSED in str(e).lower():
                self._login.passwords.refused()
            # After a failed TLS handshake nobody is told of the end of the connection, for which nats-py would wait for ever.
            for name in ("_io_writer", "_bare_io_writer"):
                writer = getattr(self._transport, name, None)
                if writer is not None:
                    writer.transport.abort()
            self._transport = None
            raise

    async def _process_err(self, err_msg: str) -> None:
        if REFUSED in err_msg.lower() and self.is_connected:
            # The server has read its users again. nats-py would close for good; we come back, with the other password if need be.
            await self._process_op_err(nats.errors.AuthorizationError())
        else:
            await super()._process_err(err_msg)

    def _connect_command(self) -> bytes:
        writer = getattr(self._transport, "_io_writer", None)
        if self._login.encrypted and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise nats.errors.Error("the address says tls://, and the server offers no TLS")
        return super()._connect_command()

    async def subscribe_direct(self, subject: str, queue: str, handler: Handler) -> Subscription:
        """Subscribe with a plain function that is called one message at a time and must not wait."""
        sub: Subscription = await self.subscribe(subject, queue=queue)
        self._direct[sub._id] = handler
        return sub

    async def unsubscribe_direct(self, sub: Subscription) -> None:
        """End such a subscription."""
        self._direct.pop(sub._id, None)
        if not sub._closed and not self.is_closed:
            await sub.unsubscribe()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self._direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            handler(subject.decode(), reply.decode(), data, wire.decode(headers) if headers else None)
        except Exception:
            # An exception here would end nats-py's read loop, and with it every call of this process.
            log.exception("handler_failed", subject=subject.decode(errors="replace"))

    def publish_direct(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """Have a publish written at the end of this turn of the loop. If the connection is lost before, it is lost with it.

        Args:
            headers: an encoded block, see `headers.encode`; empty: none.
        """
        to = f"{subject} {reply}" if reply else subject
        if headers:
            head = f"HPUB {to} {len(headers)} {len(headers) + len(data)}\r\n".encode()
            command = b"".join((head, headers, data, b"\r\n"))
        else:
            command = b"".join((f"PUB {to} {len(data)}\r\n".encode(), data, b"\r\n"))
        if self._pending:
            # A SUB or the like waits for the flusher: nothing may overtake it.
            self._pending.append(command)
            self._pending_data_size += len(command)
            return
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_all)
        self._unwritten.append(command)
        self._unwritten_bytes += len(command)

    def _write_all(self) -> None:
        commands, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        if not commands or self._transport is None or not self.is_connected:
            return
        try:
            self._transport.write(b"".join(commands))
        except RuntimeError as e:
            # uvloop's word for a socket that is closed already, before nats-py has heard of it.
            log.debug("connection_just_lost", commands=len(commands), error=str(e))

    async def close(self) -> None:
        """See `Client.close`."""
        self._write_all()
        await super().close()

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the socket to take it."""
        writer = getattr(self._transport, "_io_writer", None)
        buffered: int = writer.transport.get_write_buffer_size() if writer is not None else 0
        return buffered + self._unwritten_bytes + int(self._pending_data_size)
