"""What every call of the examples has: a connection, names for caller and call, and what comes back beside an answer."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import grpc

from qingyu_ai.contract import common_pb2

USER = "tour-reader"

CONNECT_SECONDS = 10

# As a caller in production sets them: a broken connection is noticed within 13 s, also while nothing is being said. The
# bridge allows pings at this pace; most gRPC servers answer them with GOAWAY too_many_pings.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

USAGE_KEYS = (
    "x-usage-prompt",
    "x-usage-completion",
    "x-usage-estimated",
    "x-finish-reason",
    "x-model",
    "x-request-id",
)
"""A chat chunk has room for text only, so everything else about an answer travels in the trailing metadata."""

COLOURS = {"tool_start": "36", "tool_end": "32", "reasoning": "2", "match": "33"}
"""By type of an agent's chunk: cyan, green, dim; what a search matched: yellow (ECMA-48)."""

Pairs = Iterable[tuple[str, str | bytes]] | None


class Broken(Exception):
    """An answer was not what the contract promises."""


def opened(target: str, ca: str | None, cert: str | None, key: str | None) -> grpc.Channel:
    """Open a channel, with TLS if there are certificates.

    Raises:
        Broken: a file cannot be read.
    """
    if not ca:
        return grpc.insecure_channel(target, options=KEEPALIVE)
    try:
        trusted, own_key, own = (Path(file).read_bytes() if file else None for file in (ca, key, cert))
    except OSError as e:
        raise Broken(f"读不了文件 · cannot read {e.filename}: {e.strerror}") from None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(trusted, own_key, own), options=KEEPALIVE)


def connect(channel: grpc.Channel, target: str) -> None:
    """Wait for the connection, but not for ever: a wrong address shows here, and not in the first call."""
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
    except grpc.FutureTimeoutError:
        raise Broken(
            f"连接不上 · no connection to {target} in {CONNECT_SECONDS} s: is `qingyu-ai up` running?"
        ) from None


def show_usage(trailing: Pairs, request_id: str) -> None:
    """Print what the answer cost, and where it came from."""
    for key in USAGE_KEYS:
        print(f"  {key}: {returned(trailing, key)}")
    if returned(trailing, "x-request-id") != request_id:
        raise Broken("请求编号不符 · the trailing metadata carries another request id")


def status_of(error: object) -> str:
    """Code and message. What grpcio raises is the error and the call in one, and only the call has them."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


def returned(pairs: Pairs, key: str) -> str:
    """One value of the metadata that came back."""
    for name, value in pairs or ():
        if name == key:
            return value.decode() if isinstance(value, bytes) else value
    raise Broken(f"元数据缺失 · the metadata lacks {key}")


def user(text: str) -> common_pb2.Message:
    """What the person says."""
    return common_pb2.Message(role="user", content=text)


def metadata(request_id: str) -> common_pb2.Metadata:
    """Who asks, and which call this is."""
    return common_pb2.Metadata(request_id=request_id, user_id=USER, timestamp=int(time.time()))


def new_request_id() -> str:
    """Unique for each logical call; a retry keeps it."""
    return f"req_{time.time_ns()}_{uuid.uuid4().hex[:8]}"


def painted(kind: str, text: str) -> str:
    """The text in the colour of its kind, on a terminal that may have colours (NO_COLOR, no-color.org)."""
    code = COLOURS.get(kind)
    return f"\x1b[{code}m{text}\x1b[0m" if code and sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def heading(chinese: str, english: str) -> None:
    """Start a new part."""
    print(f"\n── {chinese} · {english}")
