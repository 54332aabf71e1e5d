"""Calls that nobody waits for any more: decided against their worker, at once, or if nobody comes back in a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import record, subjects
from .asking import tell_cancelled
from .errors import Fault
from .records import Records
from .transport import Bus, Headers, Subscription
from .transport_errors import Conflict, NoResponders, ReplyTimeout, TransportError

log = structlog.get_logger(__name__)

KEPT = 60.0
"""Seconds after which a cancelled call's worker that was heard no more is forgotten. One that is still heard is told again, once
a beat."""

ANSWER_SECONDS = 0.5
"""For another bridge to say that it reads a call."""

TRIES = 5
"""How often a call is decided against a worker that claims it, is replaced or ends it in between."""


class Withdrawals:
    """What a bridge does about calls that lost their caller.

    Args:
        is_open: whether this bridge reads a call.
    """

    def __init__(self, bus: Bus, settings: BusSettings, records: Records, is_open: Callable[[str], bool]) -> None:
        self._bus = bus
        self._settings = settings
        self._records = records
        self._is_open = is_open
        self._told: dict[str, float] = {}
        self._shared: set[str] = set()
        """Calls that are read here, and that another bridge has said to read too."""
        self._lingering: dict[str, asyncio.Task[None]] = {}
        self._interest: Subscription | None = None

    def __repr__(self) -> str:
        return f"<Withdrawals {self.lingering} linger, {len(self._told)} told>"

    @property
    def lingering(self) -> int:
        """Calls that wait for their caller to come back."""
        return len(self._lingering)

    async def start(self) -> None:
        """Begin to answer other bridges."""
        self._interest = await self._bus.subscribe(subjects.held("*"), self._on_question)

    async def stop(self) -> None:
        """Decide nothing more: calls that linger run to their end."""
        for task in self._lingering.values():
            task.cancel()
        if self._interest is not None:
            await self._interest.stop()

    def tick(self, now: float) -> None:
        """Forget whom nobody hears any more."""
        self._told = {call: at for call, at in self._told.items() if now - at < KEPT}
        self._shared = {call for call in self._shared if self._is_open(call)}

    def heard(self, call: str) -> None:
        """A frame of a call that nobody reads here: perhaps its worker has not heard, or not believed."""
        now = time.monotonic()
        if now - self._told.get(call, now) > self._settings.beat_seconds:
            self._told[call] = now
            tell_cancelled(self._bus, call)

    def join(self, call: str) -> None:
        """Say to other bridges that a call of theirs is read here, too: its end is not for one caller to decide."""
        try:
            self._bus.publish(subjects.held(call), b"")
        except TransportError as e:
            log.debug("join_not_said", error=str(e))

    def is_shared(self, call: str) -> bool:
        """Whether another bridge has said that it reads a call."""
        return call in self._shared

    def linger(self, call: str, digest: bytes, shown: int, fault: Fault, seconds: float) -> None:
        """Decide a call later, if by then nobody reads it at any bridge.

        Args:
            shown: deltas that its caller was shown.
        """
        if call in self._lingering:
            self._lingering.pop(call).cancel()
        task = asyncio.get_running_loop().create_task(self._linger(call, digest, shown, fault, seconds))
        self._lingering[call] = task
        task.add_done_callback(lambda done: self._lingering.get(call) is done and self._lingering.pop(call))

    async def _linger(self, call: str, digest: bytes, shown: int, fault: Fault, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._lingering.pop(call, None)
        try:
            held = await self.is_held(call)
        except TransportError:
            return  # nobody can be asked: the deadline will end the call
        if not held:
            await self.decide(call, digest, shown, fault)

    async def is_held(self, call: str) -> bool:
        """Whether any bridge reads a call, or waits for its caller to come back.

        Raises:
            TransportError: the broker does not answer.
        """
        if self._is_open(call) or call in self._lingering:
            return True
        try:
            await self._bus.ask(subjects.held(call), b"", timeout=ANSWER_SECONDS)
        except (ReplyTimeout, NoResponders):
            return False
        return True

    def _on_question(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        call = subject.rpartition(".")[2]
        if not reply:
            if self._is_open(call):
                self._shared.add(call)
        elif reply.startswith(subjects.inbox_of("bridge")) and (self._is_open(call) or call in self._lingering):
            try:
                self._bus.publish(reply, b"")
            except TransportError as e:
                log.debug("held_not_said", error=str(e))

    async def decide(self, call: str, digest: bytes, shown: int, fault: Fault) -> bool:
        """Decide a call against its worker: the record first, then the word.

        Returns:
            Whether it is decided now, so or otherwise.
        """
        for n in range(TRIES):
            try:
                entry = await self._records.read(call, newest=n > 0)
                if entry is not None and entry.done:
                    return True
                end = bus_pb2.End(status=fault.status, count=shown)
                held = entry.record if entry is not None else None
                value = record.decided(held, held.digest if held is not None else digest, end)
                await self._records.write(call, value, entry.revision if entry is not None else 0)
            except Conflict:
                await asyncio.sleep(0.02 * n)  # it was claimed, taken over or finished in between
                continue
            except TransportError as e:
                log.warning("call_not_withdrawn", call=call, error=str(e))
                return False
            self._told[call] = time.monotonic()
            tell_cancelled(self._bus, call)
            return True
        return False
