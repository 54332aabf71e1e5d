"""HTTP for models: libcurl on the event loop. It knows bytes, status and headers, and nothing of models.

libcurl does connections, their reuse, TLS, HTTP/1.1 and HTTP/2 (decision record 0007); this file tells it which sockets are
ready and what time it is, as libcurl's `curl_multi_socket_action` wants it, and gives each transfer an async face.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from enum import Enum
from typing import Any, Final
from urllib.parse import urlsplit

import pycurl

HELD_BYTES: Final = 256 * 1024
"""What a body may hold that nobody has read; then the transfer pauses, and TCP makes the sender wait."""

BUFFER_BYTES: Final = 64 * 1024
IDLE_CONNECTIONS: Final = 256
IDLE_SECONDS: Final = 50
"""Connections unused for longer are not used again: servers and balancers close them at 60 s."""

TICK: Final = 0.002
"""Seconds by which a timer may be early or late."""

SUPPRESS_CONNECT_HEADERS: Final = 265
"""CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that no proxy is asked for, whatever the environment says."""


class Failure(Enum):
    """Why a transfer failed, as far as that makes a difference."""

    CONNECT = "there is no connection"
    CONNECT_TIMEOUT = "no connection in time"
    TLS = "TLS was refused, by us or by them"
    CUT = "the connection was lost"
    OTHER = "something else"


FAILURES = {
    pycurl.E_COULDNT_RESOLVE_HOST: Failure.CONNECT,
    pycurl.E_COULDNT_RESOLVE_PROXY: Failure.CONNECT,
    pycurl.E_COULDNT_CONNECT: Failure.CONNECT,
    pycurl.E_OPERATION_TIMEDOUT: Failure.CONNECT_TIMEOUT,  # no other of its timeouts is set
    pycurl.E_SSL_CONNECT_ERROR: Failure.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure.TLS,
    pycurl.E_SSL_CERTPROBLEM: Failure.TLS,
    pycurl.E_SSL_CACERT_BADFILE: Failure.TLS,
    pycurl.E_SSL_CIPHER: Failure.TLS,
    pycurl.E_SSL_ISSUER_ERROR: Failure.TLS,
    pycurl.E_RECV_ERROR: Failure.CUT,
    pycurl.E_SEND_ERROR: Failure.CUT,
    pycurl.E_GOT_NOTHING: Failure.CUT,
    pycurl.E_PARTIAL_FILE: Failure.CUT,
    pycurl.E_HTTP2: Failure.CUT,
    92: Failure.CUT,  # CURLE_HTTP2_STREAM, which pycurl does not name
}


class TransferError(Exception):
    """A transfer ended otherwise than by its end. The text is libcurl's, for the log."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


class Transfer:
    """One request and its answer. `close` ends it at any time; the socket of an unfinished one is closed with it."""

    def __init__(self, curls: Curls, handle: pycurl.Curl) -> None:
        self._curls = curls
        self._handle: pycurl.Curl | None = handle
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case."""
        self._begun = False
        self._done = False
        self._error: TransferError | None = None
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Transfer status {self.status}, {self._held_bytes} bytes held, {'done' if self._done else 'open'}>"

    async def head(self, until: float) -> None:
        """Wait for the status and the headers.

        Args:
            until: on `time.monotonic()`.

        Raises:
            TimeoutError: they do not come in time.
            TransferError: they do not come.
        """
        while not self._begun and not self._done:
            await self._wait(until)
        if self._error is not None and not self._begun:
            raise self._error

    async def read(self, until: float) -> bytes:
        """Wait for a piece of the body, of any size.

        Args:
            until: on `time.monotonic()`.

        Returns:
            All that has arrived; empty at the end.

        Raises:
            TimeoutError: nothing arrives in time.
            TransferError: the body was cut; what arrived before has been read.
        """
        while not self._held and not self._done:
            await self._wait(until)
        if self._held:
            data = self._held.popleft() if len(self._held) == 1 else b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            if self._paused and self._handle is not None:
                self._paused = False
                self._handle.pause(pycurl.PAUSE_CONT)
                self._curls.kick()
            return data
        if self._error is not None:
            raise self._error
        return b""

    def close(self) -> None:
        """End it now. A connection whose answer was read to its end is kept for the next request."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        handle, self._handle = self._handle, None
        if handle is not None:
            self._curls.drop(handle)

    async def _wait(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        self._until = until
        if self._alarm is None or self._alarm.when() > until + TICK:
            self._set_alarm(loop)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for many reads: it is moved when it goes off too early, not at each token."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(loop.time() + max(0.0, self._until - time.monotonic()), self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        if self._until > time.monotonic() + TICK:
            self._set_alarm(loop)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by libcurl.

    def on_header(self, line: bytes) -> None:
        """A line of the head: of an answer, or of an interim one before it (100, proxies)."""
        text = line.decode("latin-1").rstrip("\r\n")
        if text.startswith("HTTP/"):
            _, _, rest = text.partition(" ")
            self.status = int(rest[:3]) if rest[:3].isdecimal() else 0  # an exception here would only be printed
            self.headers.clear()
        elif text:
            name, _, value = text.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        elif self.status >= 200:
            self._begun = True
            self._wake()

    def on_body(self, data: bytes) -> int | None:
        """A piece of the body."""
        if self._held_bytes >= HELD_BYTES:
            self._paused = True
            return int(pycurl.WRITEFUNC_PAUSE)  # it comes again
        self._held.append(data)
        self._held_bytes += len(data)
        self._wake()
        return None

    def on_done(self, error: TransferError | None) -> None:
        """Nothing more comes."""
        self._done = True
        self._error = error
        self._wake()


class Curls:
    """All transfers of one event loop, with one pool of connections. Made and closed on that loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, IDLE_CONNECTIONS)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        self._transfers: dict[pycurl.Curl, Transfer] = {}
        self._watched: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._spare: list[pycurl.Curl] = []
        found = ssl.get_default_verify_paths()  # libcurl from a wheel does not know where this system keeps them
        places = ((pycurl.CAINFO, found.cafile), (pycurl.CAPATH, found.capath))
        self._authorities = [(option, place) for option, place in places if place]

    def __repr__(self) -> str:
        return f"<Curls {len(self._transfers)} transfers, {len(self._watched)} sockets>"

    @property
    def open(self) -> int:
        """Transfers that are under way."""
        return len(self._transfers)

    def start(
        self,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        *,
        connect_seconds: float,
        http2: bool = True,
        ca_file: str = "",
    ) -> Transfer:
        """Send a request: a POST with this body, or a GET without one.

        Redirects are not followed: they would carry a key away.
        """
        handle = self._spare.pop() if self._spare else pycurl.Curl()
        transfer = Transfer(self, handle)
        options: list[tuple[int, Any]] = [
            (pycurl.URL, url),
            (pycurl.NOSIGNAL, 1),
            (pycurl.TCP_NODELAY, 1),
            (SUPPRESS_CONNECT_HEADERS, 1),  # a proxy's 200 is not the server's
            (pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()]),
            (pycurl.CONNECTTIMEOUT_MS, max(1, int(connect_seconds * 1000))),
            (pycurl.MAXAGE_CONN, IDLE_SECONDS),
            (pycurl.BUFFERSIZE, BUFFER_BYTES),
            (pycurl.HEADERFUNCTION, transfer.on_header),
            (pycurl.WRITEFUNCTION, transfer.on_body),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS if http2 else pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.PIPEWAIT, 1 if http2 else 0),
        ]
        if urlsplit(url).hostname in LOOPBACK:
            options.append((pycurl.PROXY, ""))
        if body is not None:
            options += [(pycurl.POST, 1), (pycurl.POSTFIELDS, body)]
        if ca_file:
            options.append((pycurl.CAINFO, ca_file))
        else:
            options += self._authorities
        for name, value in options:
            handle.setopt(name, value)
        self._transfers[handle] = transfer
        self._multi.add_handle(handle)
        return transfer

    def drop(self, handle: pycurl.Curl) -> None:
        """Forget a transfer, finished or not."""
        if self._transfers.pop(handle, None) is not None:
            self._multi.remove_handle(handle)
            self.kick()  # what its end makes possible: another transfer on its connection, or the connection's own end
        handle.reset()
        self._spare.append(handle)

    def kick(self) -> None:
        """Have libcurl look around, after something that it was told outside its own time."""
        self._loop.call_soon(self._act, pycurl.SOCKET_TIMEOUT, 0)

    def close(self) -> None:
        """End all transfers and connections."""
        self._closed = True
        for handle, transfer in list(self._transfers.items()):
            transfer.on_done(TransferError(Failure.CUT, "the client was closed"))
            self._multi.remove_handle(handle)
        self._transfers.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._multi.close()
        for fd in list(self._watched):
            self._unwatch(fd)

    # What libcurl asks of the loop.

    def _on_socket(self, what: int, fd: int, multi: pycurl.CurlMulti, data: object) -> None:
        self._unwatch(fd)
        if what in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._loop.add_reader(fd, self._act, fd, pycurl.CSELECT_IN)
        if what in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
        if what != pycurl.POLL_REMOVE:
            self._watched[fd] = what

    def _unwatch(self, fd: int) -> None:
        what = self._watched.pop(fd, None)
        if what in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._loop.remove_reader(fd)
        if what in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.remove_writer(fd)

    def _on_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0:
            self._timer = self._loop.call_later(milliseconds / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, fd: int, events: int) -> None:
        if self._closed:
            return
        self._multi.socket_action(fd, events)
        while True:
            more, finished, failed = self._multi.info_read()
            for handle in finished:
                self._finish(handle, None)
            for handle, code, text in failed:
                self._finish(handle, TransferError(FAILURES.get(code, Failure.OTHER), text))
            if not more:
                break

    def _finish(self, handle: pycurl.Curl, error: TransferError | None) -> None:
        transfer = self._transfers.pop(handle, None)
        self._multi.remove_handle(handle)
        if transfer is not None:
            transfer.on_done(error)
