"""What a reader thinks of a worker that it has not heard for a lease: the record knows (docs/bus-protocol.md, "Silence")."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from qingyu_ai.settings import Bus as BusSettings

from . import record
from .errors import BusDown, Lost, SameIdOtherBody
from .gauge import Gauge
from .reading import Reading
from .record import Entry
from .records import Records
from .transport import Bus
from .transport_errors import TransportError


class Silence:
    """The judge of silent calls.

    Args:
        read_apart: has a reader follow the call's own log, from the start.
    """

    def __init__(
        self,
        bus: Bus,
        settings: BusSettings,
        records: Records,
        gauge: Gauge,
        read_apart: Callable[[Reading], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._records = records
        self._gauge = gauge
        self._read_apart = read_apart

    async def judge(self, reading: Reading) -> None:
        """Nothing was heard for a lease: ask the record what to think of it.

        Raises:
            Fault: the call's own log cannot be read.
        """
        try:
            # Who is astray believes a worker that has the call: a copy that is behind may not know who replaced it.
            entry = await self._records.read(reading.call, newest=reading.astray)
        except TransportError as e:
            reading.fail(BusDown.of(e))
            return
        if reading.end is not None:
            return
        now, lease = time.monotonic(), self._settings.lease_seconds
        if entry is not None and entry.revision <= reading.position.reopened:
            reading.heard = now - lease / 2  # a copy that is behind: the call was reopened since, as this reader knows
            return
        held = entry.record if entry is not None else None
        queue = self._gauge.generations.get(reading.queue, "")
        if entry is None or held is None or held.state == record.REOPENED:
            if reading.astray and entry is None:
                reading.settle()  # nobody has begun, so nobody who was replaced can speak there
            await self._judge_queue(reading)
        elif record.other_body(held, reading.digest):
            reading.fail(SameIdOtherBody(reading.request_id))  # claimed for a request that came at the same time
        elif reading.astray:
            self._judge_astray(reading, entry, queue)
        elif not (reading.apart or reading.heard_anything) and (not entry.done or held.end.count):
            # Its worker speaks, or spoke, into the log of another request with the same id.
            reading.heard = now
            await self._read_apart(reading)
        elif entry.done:
            self._end_from_record(reading, entry)
        elif record.other_queue(held, queue):
            # Its job is lost with its queue, and its worker is silent: nobody will go on, unless it is asked for again.
            lost = Lost("its log and its job are gone") if reading.position.next else BusDown("it lost the job")
            reading.fail(lost)
        else:
            # Its worker is dead, frozen or cut off. The job is delivered again, and another worker goes on where the log
            # ends; the caller's deadline says how long that may take.
            reading.heard = now - lease / 2

    async def _judge_queue(self, reading: Reading) -> None:
        """Nobody has begun: the job waits in its queue, if the queue is still the one it was put into."""
        reading.heard = time.monotonic() - self._settings.lease_seconds / 2
        if not reading.queue:
            return
        try:
            queue = await self._bus.used(reading.queue)
        except TransportError as e:
            reading.fail(BusDown.of(e))
            return
        if queue.created_unix > reading.began:
            reading.fail(BusDown("it lost the job"))

    def _judge_astray(self, reading: Reading, entry: Entry, queue: str) -> None:
        """The log was made anew. Does what is said there go on with what this reader has?"""
        held, at = entry.record, reading.position
        same = record.epoch_of(entry) == at.epoch and not reading.unsure if at.next else reading.is_there(held.log)
        if same:
            # Nobody has claimed the call since; or nothing was shown, and the call was claimed in the new log.
            reading.settle()
        elif entry.done and (held.end.status or not (held.end.count or at.next)):
            reading.finish(held.end)
        elif at.next or entry.done:
            reading.fail(Lost("its log is lost"))
        elif record.other_queue(held, queue):
            reading.fail(BusDown("it lost the job"))  # with the log: nobody will claim it, unless it is asked for again
        else:
            reading.heard = time.monotonic() - self._settings.lease_seconds / 2  # a claim in the new log may come

    @staticmethod
    def _end_from_record(reading: Reading, entry: Entry) -> None:
        end, at = entry.record.end, reading.position
        if end.HasField("answer") or end.status:
            reading.ends_with(end)
            return
        heard = record.epoch_of(entry) in (0, at.epoch) and not (entry.record.restarted and at.awaits_base)
        if end.count == at.next and (heard or not end.count):
            reading.finish(end)
        else:
            reading.look_again()  # as many deltas, perhaps, but of a claim that this reader has not heard
