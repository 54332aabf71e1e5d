"""The connection to the bridge: one channel for all calls, and what gRPC raises as errors of the caller's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc

from qingyu_ai.bus.fault import Code
from qingyu_ai.doors.certificates import Files, Pem, Rotating, client_context, unencrypted, without_word
from qingyu_ai.routes import Route, StreamJob
from qingyu_ai.tracing.context import NOWHERE, Context

from .errors import TIMEOUT, UNAUTHENTICATED, UNAVAILABLE, AIProxyError, from_grpc
from .spans import Asking
from .who import AUTHORIZATION_KEY, Metadata

CONNECT_SECONDS = 10.0
"""How long a start waits for the bridge."""

LONGEST_CALL_SECONDS = 3600.0
"""How long calls that run may keep a channel whose certificates were rotated."""

LOOK_SECONDS = 3.0

OWN_TOKEN = "OWN_TOKEN_NOT_TAKEN"
NOT_LET_IN = (
    "AI服务不可用：本代理自身的令牌缺失或无效，请联系管理员（日志中有说明）",
    "The AI service does not let this proxy in: its own token is missing or not valid; its operator finds more in its log",
)

NO_FILES = Files("QINGYU_AI__PROXY")

OPTIONS = (
    # A bridge that is frozen or cut off is noticed within 13 s, also while nothing is being said; the bridge allows the pace.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Several addresses share the calls, and one that is dead is passed over.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),  # the bridge bounds what it sends
    ("grpc.max_send_message_length", 8 * 1024 * 1024),
    ("grpc.enable_retries", 0),  # retries are protection.py's, which sees them
    ("grpc.use_local_subchannel_pool", 1),
)


@contextmanager
def translated(metadata: Metadata) -> Iterator[None]:
    """Let no error of gRPC's out.

    Args:
        metadata: of the call, as whoever calls gave it.
    """
    try:
        yield
    except grpc.RpcError as e:
        error = from_grpc(e)
        if error.kind is UNAUTHENTICATED and not _has_token(metadata):
            # Whoever calls has shown what there was to show: signing in again would not help.
            error = AIProxyError(UNAVAILABLE, *NOT_LET_IN, status=error.status, reason=OWN_TOKEN, retryable=False)
        raise error from e
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Not whoever waits was cancelled, but the call: its channel has been closed.
        english = "The connection to the AI service has been closed"
        raise AIProxyError(UNAVAILABLE, english=english, status=Code.UNAVAILABLE, retryable=False) from None


class Connection:
    """A channel to the bridge. When the certificates were rotated, new calls get a new one, and those that run keep theirs.

    Args:
        target: `host:port`, or any target of gRPC's.
        token: of this caller itself, asked for at each call that brings no user's; empty: it has none.
        files: certificates; none: no TLS.

    Raises:
        SettingsError: the certificates do not hold.
    """

    def __init__(self, target: str, token: Callable[[], str] = lambda: "", files: Files = NO_FILES) -> None:
        self.target = target
        self._token = token
        self._files = files
        self._credentials = Rotating(files, _credentials) if files else None
        self._used = self._credentials.current if self._credentials else None
        self._current = self._open()
        self._leaving: set[asyncio.Task[None]] = set()
        self._methods: dict[str, Any] = {}
        """By path: gRPC's own objects for unary calls and streams, made once for a channel."""

    def _open(self) -> grpc.aio.Channel:
        if self._used is None:
            return grpc.aio.insecure_channel(self.target, options=OPTIONS)
        return grpc.aio.secure_channel(self.target, self._used, options=OPTIONS)

    def _look_at_certificates(self) -> None:
        """Have the next call use those that there are now."""
        if self._credentials is None or (found := self._credentials.current) is self._used:
            return
        before, self._used = self._current, found
        self._current, self._methods = self._open(), {}
        leaving = asyncio.get_running_loop().create_task(before.close(LONGEST_CALL_SECONDS))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def ready(self, seconds: float = CONNECT_SECONDS) -> None:
        """Wait for a connection.

        Raises:
            AIProxyError: there is none in time.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._current.channel_ready()
        except TimeoutError:
            english = f"There is no connection to the AI service at {self.target} within {seconds:g} s"
            if why := await why_not_encrypted(self.target, self._files):
                english = f"{english}: {why}"
            raise AIProxyError(UNAVAILABLE, english=english, status=Code.UNAVAILABLE, retryable=False) from None

    async def unary(
        self, route: Route[Any, Any], request: Any, metadata: Metadata, seconds: float, trace: Context = NOWHERE
    ) -> tuple[Any, Mapping[str, str]]:
        """Ask once.

        Returns:
            The reply and its trailing metadata.

        Raises:
            AIProxyError: it failed.
        """
        with Asking(route, trace) as asking, translated(metadata):
            named = self._named((*metadata, *asking.metadata))
            call = self._method("unary_unary", route)(request, metadata=named, timeout=seconds)
            reply = await call
            return reply, _texts(await call.trailing_metadata())

    async def batch(
        self, route: Route[Any, Any], requests: Any, metadata: Metadata, seconds: float, trace: Context = NOWHERE
    ) -> Any:
        """Send many requests, and wait for the one reply."""
        self._look_at_certificates()
        method = self._current.stream_unary(route.path, route.request.SerializeToString, route.reply.FromString)
        with Asking(route, trace) as asking, translated(metadata):
            named = self._named((*metadata, *asking.metadata))
            return await method(iter(requests), metadata=named, timeout=seconds)

    def stream(
        self,
        route: StreamJob[Any, Any],
        request: Any,
        metadata: Metadata,
        seconds: float | None,
        silence: float,
        trace: Context = NOWHERE,
    ) -> Streaming:
        """Ask for a stream.

        Args:
            seconds: for all of it; None: as long as the bridge gives a call.
            silence: seconds without a word after which it is given up.
            trace: in which it is asked.
        """
        method, asking = self._method("unary_stream", route), Asking(route, trace)
        named = self._named((*metadata, *asking.metadata))
        return Streaming(method(request, metadata=named, timeout=seconds), metadata, silence, asking)

    def _method(self, kind: str, route: Route[Any, Any]) -> Any:
        self._look_at_certificates()
        method = self._methods.get(route.path)
        if method is None:
            method = getattr(self._current, kind)(route.path, route.request.SerializeToString, route.reply.FromString)
            self._methods[route.path] = method
        return method

    def _named(self, metadata: Metadata) -> Metadata:
        """Say who calls, where no user's token does."""
        if _has_token(metadata) or not (token := self._token()):
            return metadata
        return (*metadata, (AUTHORIZATION_KEY, f"Bearer {token}"))

    async def close(self) -> None:
        """Hang up."""
        for leaving in self._leaving:
            leaving.cancel()
        await self._current.close()


class Streaming:
    """One attempt of a stream.

    Args:
        call: gRPC's.
        metadata: as whoever calls gave it.
        silence: seconds without a word after which it is given up.
        asking: its span.
    """

    def __init__(self, call: Any, metadata: Metadata, silence: float, asking: Asking) -> None:
        self._call = call
        self._metadata = metadata
        self._asking = asking
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._waits_since: float | None = None
        """None: it is the reader who takes its time."""
        self._silent = False
        self._timer = self._loop.call_later(silence, self._look)
        self.trailers: Mapping[str, str] = {}
        """Once it has ended well."""

    def __enter__(self) -> Streaming:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        self._call.cancel()  # a call that has ended takes no notice
        self._asking.__exit__(kind, error, trace)

    def _look(self) -> None:
        """One timer for the whole stream: one for each message would cost as much as the message."""
        now = self._loop.time()
        left = self._silence if self._waits_since is None else self._waits_since + self._silence - now
        if left <= 0:
            self._silent = True
            self._call.cancel()
            return
        self._timer = self._loop.call_at(now + left, self._look)

    async def messages(self) -> AsyncGenerator[Any, None]:
        """All of it.

        Raises:
            AIProxyError: it broke.
        """
        try:
            with translated(self._metadata):
                while True:
                    self._waits_since = self._loop.time()
                    message = await self._call.read()
                    self._waits_since = None
                    if message is grpc.aio.EOF:
                        break
                    yield message
                self.trailers = _texts(await self._call.trailing_metadata())
        except AIProxyError:
            if not self._silent:
                raise
            english = f"The AI service has said nothing for {self._silence:g} s"
            raise AIProxyError(TIMEOUT, english=english, status=Code.DEADLINE_EXCEEDED) from None


def _credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.ca or None, pem.key or None, pem.cert or None)


async def why_not_encrypted(target: str, files: Files) -> str:
    """Try TLS by ourselves, because gRPC only says that it did not work; empty: it is not that.

    Args:
        target: of several addresses, the first is tried; what has no port is left alone.
    """
    address = target.removeprefix("ipv4:").removeprefix("dns:").removeprefix("///").split(",")[0]
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return ""
    try:
        context = client_context(files.read(), files)
        context.set_alpn_protocols(["h2"])
        async with asyncio.timeout(LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            try:
                # gRPC's server greets whom it lets in; where it misses a certificate or does not take it, it says nothing.
                greeted = await reader.read(1)
            finally:
                writer.close()
        if not greeted:
            raise ConnectionResetError
    except TimeoutError:
        return ""
    except ConnectionResetError:
        return without_word(files)
    except OSError as e:
        said = unencrypted(e, files)
        return said if files else f"the bridge speaks TLS: set {files.setting('ca')}" if said else ""
    return "" if files else f"the bridge speaks TLS: set {files.setting('ca')}"


def _has_token(metadata: Metadata) -> bool:
    """Whether a user's token is in it."""
    return any(key == AUTHORIZATION_KEY for key, _ in metadata)


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
