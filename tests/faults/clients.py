"""Clients of a system under faults. Hundreds of calls are open at once, so they live on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e.callers import OWN_CONNECTION, Failure, new_id

from .ledger import Received
from .tokens import Ask
from .upstream import PREFIX

if TYPE_CHECKING:
    Stub = ai_agent_pb2_grpc.AIAgentServiceAsyncStub  # a name for types only: at run time there is one stub for both
else:
    Stub = ai_agent_pb2_grpc.AIAgentServiceStub

USER = "faults"


@asynccontextmanager
async def connected(target: str, options: Iterable[tuple[str, Any]] = ()) -> AsyncIterator[Stub]:
    """A connection of its own to a bridge."""
    async with grpc.aio.insecure_channel(target, options=[*OWN_CONNECTION, *options]) as channel:
        yield Stub(channel)


CUT = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Ends that do not depend on how far a call has come."""


class Client:
    """One call, and what was received of it so far, over all attempts to read it.

    Args:
        ask: what is asked of the model.
        model: the way in which the model goes on after a death: `prefix` or `restart`.
        session: of the call; empty: none.
        timeout: its deadline, in seconds.
    """

    metadata: tuple[tuple[str, str], ...] = ()
    """Of each call, beside where to read on."""

    def __init__(self, ask: Ask, model: str = PREFIX, *, session: str = "", timeout: float = 60.0) -> None:
        self.ask = ask
        self.model = model
        self.session = session
        self.timeout = timeout
        self.request_id = new_id()
        self.text = ""
        self.finals = 0
        self.final_last = False
        self.failure: Failure | None = None
        self.began_at = self.ended_at = 0.0
        self.arrivals: list[float] = []
        self.trailers: dict[str, str] = {}
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._call: Any = None

    @property
    def request(self) -> ai.ChatRequest:
        """What is sent."""
        return ai.ChatRequest(
            messages=[common.Message(role="user", content=str(self.ask))],
            model=self.model,
            session_id=self.session,
            metadata=common.Metadata(request_id=self.request_id, user_id=USER),
        )

    @property
    def received(self) -> Received:
        """For the ledger."""
        ok = self.ended_at > 0 and self.failure is None
        cut = self.failure is not None and (self.failure.fault is None or self.failure.code in CUT)
        return Received(self.ask.call, self.text, self.finals, self.final_last, ok, cut)

    @property
    def longest_silence(self) -> float:
        """Seconds between two chunks, at most."""
        return max((b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)), default=0.0)

    async def stream(self, stub: Stub, timeout: float = 0.0) -> None:
        """Read it as a stream, to its end; once more, if something is there already: from there."""
        metadata = (*self.metadata, *((("x-resume-from", str(len(self.text))),) if self.text else ()))
        self.finals, self.final_last = 0, False
        with _Ended(self):
            self._call = stub.ChatStream(self.request, timeout=timeout or self.timeout, metadata=metadata)
            async for chunk in self._call:
                self.arrivals.append(time.monotonic())
                self.text += chunk.delta
                self.finals += chunk.is_final
                self.final_last = chunk.is_final
                await self.may_read.wait()
            self.trailers = {str(k): str(v) for k, v in await self._call.trailing_metadata() or ()}

    async def chat(self, stub: Stub, timeout: float = 0.0) -> None:
        """Have it answered in one piece."""
        with _Ended(self):
            self._call = stub.Chat(self.request, timeout=timeout or self.timeout, metadata=self.metadata)
            self.text = (await self._call).message.content
            self.finals, self.final_last = 1, True

    def cancel(self) -> None:
        """Give it up."""
        if self._call is not None:
            self._call.cancel()

    def __repr__(self) -> str:
        state = "runs" if not self.ended_at else str(self.failure or "OK")
        return f"<{self.ask.call}: {len(self.text)} characters, {state}>"


class _Ended:
    """Notes how a reading ended. What is not gRPC's is not caught."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client.failure = None
        self._client.ended_at = 0.0
        self._client.began_at = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        client = self._client
        client.ended_at = time.monotonic()
        if isinstance(error, grpc.RpcError):
            client.failure = Failure.of(error)
            return True
        if isinstance(error, asyncio.CancelledError) and client._call is not None and client._call.cancelled():
            client.failure = Failure(grpc.StatusCode.CANCELLED, "by the client", None)
            return True
        return False


async def until(condition: Any, timeout: float) -> bool:
    """Wait until something holds; False: it did not in time."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True
