"""Paced streams: one timer for all streams of a pace, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

SLOT_SECONDS: Final = 0.005
"""Streams of a pace are spread over slots of about this length, by when they began; those in one slot write together."""


class _Stream:
    __slots__ = ("at", "done", "transport", "writes")

    def __init__(self, transport: asyncio.WriteTransport, writes: Sequence[bytes], done: asyncio.Future[None]) -> None:
        self.transport = transport
        self.writes = writes
        self.at = 0
        self.done = done


class Wheel:
    """Writes what its streams have to say, for each of them once in a period."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pace: float) -> None:
        self._loop = loop
        count = max(1, round(1 / pace / SLOT_SECONDS))
        self._slots: list[list[_Stream]] = [[] for _ in range(count)]
        self._seconds = 1 / pace / count
        self._now = 0
        self._tick_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, transport: asyncio.WriteTransport, writes: Sequence[bytes]) -> None:
        """Make these writes, the first one now, and return after the last."""
        stream = _Stream(transport, writes, self._loop.create_future())
        slot = self._slots[self._now]
        if self._write(stream):
            slot.append(stream)
            if self._timer is None:
                self._tick_at = self._loop.time() + self._seconds
                self._timer = self._loop.call_at(self._tick_at, self._tick)
        await stream.done

    def _tick(self) -> None:
        # A late tick does not make the next one late.
        self._tick_at += self._seconds
        self._now = (self._now + 1) % len(self._slots)
        going_on = [stream for stream in self._slots[self._now] if self._write(stream)]
        self._slots[self._now] = going_on
        rest = going_on or any(self._slots)
        self._timer = self._loop.call_at(self._tick_at, self._tick) if rest else None

    @staticmethod
    def _write(stream: _Stream) -> bool:
        """Make the next write of a stream, unless it was cancelled; say whether there are more."""
        if stream.done.done():
            return False
        stream.transport.write(stream.writes[stream.at])
        stream.at += 1
        if stream.at < len(stream.writes):
            return True
        stream.done.set_result(None)
        return False


class Wheels:
    """A wheel for each pace."""

    def __init__(self) -> None:
        self._wheels: dict[float, Wheel] = {}

    def of(self, pace: float) -> Wheel:
        """The wheel of this pace."""
        if pace not in self._wheels:
            self._wheels[pace] = Wheel(asyncio.get_running_loop(), pace)
        return self._wheels[pace]
