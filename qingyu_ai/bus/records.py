"""The record bucket: reading, and compare-and-set where an acknowledgement that was lost is not a failure."""

from __future__ import annotations

import asyncio
import time

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import topology
from .record import Entry
from .transport import Bus
from .transport_errors import Conflict, PayloadTooLarge, TransportError


class Records:
    """See the module."""

    def __init__(self, bus: Bus, settings: BusSettings) -> None:
        self._bus = bus
        self._settings = settings

    async def read(self, call: str, *, newest: bool = False) -> Entry | None:
        """Read the record of a call.

        Args:
            newest: from the leader, not from a copy that may be behind: what was written before must be seen.

        Raises:
            TransportError: the bucket does not answer.
        """
        stored = await self._bus.last(
            topology.CALLS, topology.call_key(call), timeout=self._settings.store_seconds, newest=newest
        )
        return Entry(stored.sequence, bus_pb2.Record.FromString(stored.data)) if stored else None

    async def write(self, call: str, value: bus_pb2.Record, expect: int) -> int:
        """Set the record if its revision is still `expect` (0: absent).

        Returns:
            The new revision.

        Raises:
            Conflict: it is not.
            PayloadTooLarge: the record is larger than the broker carries.
            TransportError: the bucket did not take it within `patience_seconds`.
        """
        key, data = topology.call_key(call), value.SerializeToString()
        give_up = time.monotonic() + self._settings.patience_seconds
        doubt = False
        while True:
            try:
                return await self._bus.store(key, data, expect=expect, timeout=self._settings.store_seconds)
            except Conflict:
                if doubt:
                    stored = await self._bus.last(
                        topology.CALLS, key, timeout=self._settings.store_seconds, newest=True
                    )
                    if stored is not None and stored.data == data:
                        return stored.sequence  # it was stored; only the acknowledgement was lost
                raise
            except PayloadTooLarge:
                raise  # it will be as large the next time
            except TransportError:
                doubt = True
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.1)
