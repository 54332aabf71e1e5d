"""One way to make a call, for all methods: protection around it, the same id on each attempt, a cancel in words.

A stream that loses its connection is asked for again from where its reader stands, at whichever bridge there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.routes import CANCEL, Job, Route, Rpc, StreamJob
from qingyu_ai.tracing.context import Context

from . import convert
from .connection import Connection
from .errors import INTERNAL, AIProxyError
from .models import StreamChunk
from .positions import Position
from .protection import Attempts, Protection
from .spans import caller
from .who import FOLLOW_KEY, LINGER_KEY, REQUEST_ID_KEY, RESUME_KEY, Metadata, Who

log = structlog.get_logger(__name__)

LINGER_SECONDS = 30.0
"""How long a job goes on without its caller, who may come back."""

CANCEL_SECONDS = 5.0
"""That a cancel in words may take."""

Reply = TypeVar("Reply")


class How(TypedDict, total=False):
    """What else a caller may say of a call."""

    request_id: str
    """Names the call, so that it may be asked for again; without: a new one."""
    deadline: Deadline | None
    """The caller's own: no attempt and no wait goes beyond it."""


class Reading(How, total=False):
    """What else a reader of a stream may say."""

    position: Position | None
    """Where it stands in a call that was begun before; None: at its beginning."""
    lingers: bool
    """It may come back when it stops, so stopping does not cancel."""


@dataclass(frozen=True)
class Logical:
    """One call as its caller sees it, however many attempts it takes."""

    route: Route[Any, Any]
    request: Any
    who: Who
    request_id: str
    timeout: float | None = None
    """Seconds for each attempt; None: as configured, which a stream may exceed while it goes on."""
    deadline: Deadline | None = None
    """Of the caller; None: it waits as long as it takes."""
    follows: bool = False
    """Reads a call that there is, and makes none: the request says no more than whose it is."""
    trace: Context = field(default_factory=caller)
    """In which its caller is."""

    def metadata(self, offset: str = "") -> Metadata:
        """What travels with an attempt."""
        found = [(REQUEST_ID_KEY, self.request_id), *self.who.metadata]
        if not isinstance(self.route, Rpc):
            found.append((LINGER_KEY, str(int(LINGER_SECONDS * 1000))))
        if offset:
            found.append((RESUME_KEY, offset))
        if self.follows:
            found.append((FOLLOW_KEY, "true"))
        return tuple(found)


class Calling:
    """Makes calls.

    Args:
        connection: to the bridge.
        protection: of all calls together.
        resumed: told each time that a stream is asked for again.
    """

    def __init__(self, connection: Connection, protection: Protection, resumed: Callable[[], None]) -> None:
        self._connection = connection
        self._protection = protection
        self._resumed = resumed
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def ask(self, call: Logical) -> tuple[Any, Mapping[str, str]]:
        """Make a unary call.

        Returns:
            The reply and its trailing metadata.

        Raises:
            AIProxyError: it failed.
        """
        metadata = call.metadata()
        return await self._attempts(
            call, lambda seconds: self._connection.unary(call.route, call.request, metadata, seconds, call.trace)
        )

    async def send(self, call: Logical, requests: Sequence[Any]) -> Any:
        """Make a call whose request is a stream. Sending it again stores nothing twice.

        Raises:
            AIProxyError: it failed.
        """
        metadata = call.metadata()
        return await self._attempts(
            call, lambda seconds: self._connection.batch(call.route, requests, metadata, seconds, call.trace)
        )

    async def _attempts(self, call: Logical, ask: Callable[[float], Coroutine[Any, Any, Reply]]) -> Reply:
        attempts = await self.begin(call)
        try:
            while True:
                try:
                    with attempts.one() as (_, seconds):
                        return await ask(seconds)
                except AIProxyError as e:
                    e.request_id = call.request_id
                    await attempts.after(e)
        except asyncio.CancelledError:
            self.cancel_soon(call)
            raise

    async def stream(
        self, call: Logical, position: Position, *, lingers: bool = False, attempts: Attempts | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """Make a call whose reply is a stream, and read all of it.

        Args:
            position: where its reader stands; moved on.
            lingers: a reader that stops may come back, so stopping does not cancel.
            attempts: of the same call, which has been let in; None: it is let in now.

        Raises:
            AIProxyError: it failed.
        """
        attempts = attempts or await self.begin(call)
        start = position.event_id
        try:
            while True:
                before = position.event_id
                try:
                    async with aclosing(self._attempt(call, position, attempts, again=before != start)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except AIProxyError as e:
                    e.request_id = call.request_id
                    await attempts.after(e, progress=position.event_id != before)
                self._resumed()
        except (asyncio.CancelledError, GeneratorExit):
            if not lingers:
                self.cancel_soon(call)
            raise

    async def _attempt(
        self, call: Logical, position: Position, attempts: Attempts, *, again: bool
    ) -> AsyncGenerator[StreamChunk, None]:
        """Read as far as one connection goes. The final chunk is held until the stream has ended well.

        Args:
            again: a part of it was read before.
        """
        assert isinstance(call.route, StreamJob)
        position.begin()
        final: StreamChunk | None = None
        # Who follows a call that failed is told so as often as he asks; it was counted when it failed.
        with attempts.one(again=again, counts=not call.follows) as (permit, seconds):
            if again:
                await self._connection.ready(min(LINGER_SECONDS, seconds))
            # The time of an attempt bounds how long a stream may be silent: one that goes on is not cut off in the middle of a
            # chapter. It ends with its caller's time, with the agent's own, or with the bridge's.
            whole = min(call.timeout or float("inf"), attempts.remaining)
            metadata = call.metadata(position.offset)
            with self._connection.stream(
                call.route, call.request, metadata, whole if whole < float("inf") else None, seconds, call.trace
            ) as streaming:
                async with aclosing(streaming.messages()) as messages:
                    async for message in messages:
                        permit.settle(failed=False)  # a stream counts once: it has been answered
                        chunk = position.take(message)
                        if chunk is None:
                            continue
                        if chunk.is_final:
                            final = chunk
                            continue
                        chunk.event_id = position.event_id
                        yield chunk
                if final is None:
                    raise AIProxyError(INTERNAL, "AI服务的回复不完整", "The stream ended without its final chunk")
                for name, meant in convert.TRAILERS.items():
                    if name in streaming.trailers:
                        final.metadata.setdefault(meant, streaming.trailers[name])
        final.event_id = position.event_id
        yield final

    async def begin(self, call: Logical) -> Attempts:
        """Let a call in.

        Raises:
            AIProxyError: there are too many a second.
        """
        try:
            return await self._protection.begin(call.timeout, call.deadline)
        except AIProxyError as e:
            e.request_id = call.request_id
            raise

    def cancel_soon(self, call: Logical) -> None:
        """Cancel a job in words, because hanging up says that its caller may come back. Rpc rows end by hanging up."""
        if isinstance(call.route, Job | StreamJob) and not self._closing:
            task = asyncio.get_running_loop().create_task(self._cancel_quietly(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _cancel_quietly(self, call: Logical) -> None:
        try:
            await self.cancel(call.route, call.request_id, call.who, call.trace)
        except AIProxyError as e:
            # It ends by itself once it has lingered.
            log.warning("cancel_not_heard", request_id=call.request_id, method=call.route.method, code=e.code)

    async def cancel(self, route: Route[Any, Any], request_id: str, who: Who, trace: Context | None = None) -> None:
        """Cancel a call in words, wherever it runs.

        Args:
            trace: of who cancels; None: of this task.

        Raises:
            AIProxyError: that could not be done; it goes on for as long as it lingers.
        """
        request = control.CancelRequest(
            method=route.method, request_id=request_id, metadata=convert.metadata(who, request_id)
        )
        await self._connection.unary(CANCEL, request, who.metadata, CANCEL_SECONDS, trace or caller())

    async def settle(self) -> None:
        """Wait until what is being cancelled is; nothing more will be."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
