"""Runs the handler of a job: its request goes in, what it says goes to the log, its answer or its error comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError, Message

from qingyu_ai.routes import StreamJob

from .errors import BusDown, Expired, Fault, Internal, Invalid, TooLarge
from .handler import Call, Served, internal
from .speaker import MAX_CHUNK, Speaker
from .transport_errors import TransportError


async def handle(served: Served, call: Call, body: bytes, speaker: Speaker) -> Message | None:
    """Run a handler until it is done, or the call's deadline has come.

    Args:
        body: the encoded request.

    Returns:
        The answer; None: the row is a stream, whose answer is what was said.

    Raises:
        Fault: the handler's own; Invalid, Expired, TooLarge; BusDown for a broker that failed the handler; Internal for anything
            else that it raised.
    """
    route = served.route
    try:
        request = route.request.FromString(body)
    except DecodeError:
        raise Invalid(("request", f"is no {route.request.DESCRIPTOR.full_name}")) from None
    call.flush = speaker.flush
    limit = asyncio.timeout(call.deadline.remaining)
    try:
        async with limit:
            if isinstance(route, StreamJob):
                await _say_all(_Voice(speaker, call), served.handler(call, request))
                return None
            if served.notes is not None:
                call.note = _Voice(speaker, call).say
            answer: Message = await served.handler(call, request)
    except TimeoutError:
        if limit.expired():
            raise Expired from None
        raise _defect(served, call) from None
    except Fault:
        raise
    except TransportError as e:
        raise BusDown.of(e) from None
    except Exception:
        raise _defect(served, call) from None
    size = answer.ByteSize()
    if size > MAX_CHUNK:
        raise TooLarge("The answer", "回答", size, MAX_CHUNK)
    return answer


class _Voice:
    """Says what a handler says. The first text is told, unless a worker before this one has said it."""

    def __init__(self, speaker: Speaker, call: Call) -> None:
        self._speaker = speaker
        self._on_first = call.on_first_token
        self._silent = not any(part.delta for part in call.said)

    async def say(self, part: Any) -> None:
        """Say it, and wait until there is room for more."""
        has_room = self._speaker.say(part)
        if self._silent and part.delta:
            self._silent = False
            self._on_first()
        if not has_room:
            await self._speaker.room()


async def _say_all(voice: _Voice, chunks: AsyncIterator[Message]) -> None:
    try:
        async for chunk in chunks:
            await voice.say(chunk)
    finally:
        # An async generator is not closed for us: the socket to the model would stay open.
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _defect(served: Served, call: Call) -> Internal:
    return internal("job_failed", call=call.id, method=served.route.method)
