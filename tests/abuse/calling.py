"""One call of any row, and all that came back of it, as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from qingyu_ai import routes

SECONDS = 30.0
AT_ONCE = 12


@dataclass(frozen=True)
class Attempt:
    """A call to make."""

    route: routes.Route[Any, Any]
    request: Any
    metadata: tuple[tuple[str, str], ...]
    what: str
    """Of the attempt, for a finding."""
    expected: frozenset[str] = frozenset()
    """Codes that it may end with."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    code: str
    said: bytes
    """Messages, metadata and the status, one after the other."""
    messages: tuple[Message, ...] = ()


async def answer_to(channel: grpc.aio.Channel, attempt: Attempt) -> Answer:
    """Make a call, however it ends."""
    route = attempt.route
    options: dict[str, Any] = {"metadata": attempt.metadata, "timeout": SECONDS}
    encode, decode = route.request.SerializeToString, route.reply.FromString
    said: list[bytes] = []
    messages: list[Message] = []
    match route:
        case routes.StreamJob():
            call: Any = channel.unary_stream(route.path, encode, decode)(attempt.request, **options)
        case routes.JobStream():
            call = channel.stream_unary(route.path, encode, decode)(iter([attempt.request]), **options)
        case _:
            call = channel.unary_unary(route.path, encode, decode)(attempt.request, **options)
    try:
        if isinstance(route, routes.StreamJob):
            async for message in call:
                messages.append(message)
        else:
            messages.append(await call)
        code = "OK"
    except grpc.aio.AioRpcError as e:
        code = e.code().name
        said += [repr(e.details()).encode(), *_bytes(e.initial_metadata()), *_bytes(e.trailing_metadata())]
    else:
        said += [*_bytes(await call.initial_metadata()), *_bytes(await call.trailing_metadata())]
    said += [message.SerializeToString() for message in messages]
    # As text too, so that what is escaped on the wire is found.
    said += [str(message).encode() for message in messages]
    return Answer(code, b"\n".join(said), tuple(messages))


async def all_answers(channel: grpc.aio.Channel, attempts: Iterable[Attempt]) -> list[tuple[Attempt, Answer]]:
    """Make many calls, some at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(attempt: Attempt) -> tuple[Attempt, Answer]:
        async with room:
            return attempt, await answer_to(channel, attempt)

    return list(await asyncio.gather(*(one(attempt) for attempt in attempts)))


def _bytes(metadata: Any) -> list[bytes]:
    return [value if isinstance(value, bytes) else f"{key}: {value}".encode() for key, value in metadata or ()]
