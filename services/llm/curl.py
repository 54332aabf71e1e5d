"""HTTP for models: libcurl on the event loop. It knows bytes, status and headers, and nothing of models.

libcurl does connections, their reuse, TLS, HTTP/1.1 and HTTP/2 (decision record 0007); this file tells it which sockets are
ready and what time it is, as libcurl's `curl_multi_socket_action` wants it, and gives each transfer an async face.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import pycurl

from .coalescing import Readable
from .transfer import Failure, Transfer, TransferError

BUFFER_BYTES: Final = 64 * 1024
IDLE_CONNECTIONS: Final = 256
IDLE_SECONDS: Final = 50
"""Connections unused for longer are not used again: servers and balancers close them at 60 s."""

SUPPRESS_CONNECT_HEADERS: Final = 265
"""CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that no proxy is asked for, whatever the environment says."""


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
        self._readable = Readable(self._loop, partial(self._act, events=pycurl.CSELECT_IN))
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
        transfer = Transfer(self._loop, partial(self._resume, handle), partial(self._drop, handle))
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

    def _resume(self, handle: pycurl.Curl) -> None:
        handle.pause(pycurl.PAUSE_CONT)
        self._kick()

    def _drop(self, handle: pycurl.Curl) -> None:
        if self._transfers.pop(handle, None) is not None:
            self._multi.remove_handle(handle)
            self._kick()  # what its end makes possible: another transfer on its connection, or the connection's own end
        handle.reset()
        self._spare.append(handle)

    def _kick(self) -> None:
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
        self._readable.close()

    # What libcurl asks of the loop.

    def _on_socket(self, what: int, fd: int, multi: pycurl.CurlMulti, data: object) -> None:
        self._unwatch(fd)
        if what in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._readable.add(fd)
        if what in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
        if what != pycurl.POLL_REMOVE:
            self._watched[fd] = what

    def _unwatch(self, fd: int) -> None:
        what = self._watched.pop(fd, None)
        if what in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._readable.remove(fd)
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
