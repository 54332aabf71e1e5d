"""All calls that a bridge process reads: frames to their readers, credit to their workers, and a look at the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as BusSettings

from . import subjects, topology
from .errors import Fault, Overloaded, fault_of
from .gauge import Gauge
from .reading import Reading
from .records import Records
from .silence import Silence
from .transport import Bus, Subscription
from .transport_errors import TransportError
from .withdrawal import Withdrawals

log = structlog.get_logger(__name__)

TICK = 0.5
"""Seconds between looks at the open calls."""


class Readers:
    """The open calls of one bridge process.

    Args:
        token: of the bridge.
    """

    def __init__(self, bus: Bus, settings: BusSettings, records: Records, token: str) -> None:
        self._bus = bus
        self._settings = settings
        self._token = token
        self._open: dict[str, set[Reading]] = {}
        self._began: dict[Reading, float] = {}
        self._judged: set[Reading] = set()
        self._beaten = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower: Subscription | None = None
        self._log = ""
        """Which log there is, as far as the consumer of this bridge knows."""
        self._clock: asyncio.Task[None] | None = None
        self.apart = 0
        """Readers with a consumer of their own."""
        self.gauge = Gauge(bus, token, self._oldest_open)
        self.withdrawals = Withdrawals(bus, settings, records, self._open.__contains__)
        self._silence = Silence(bus, settings, records, self.gauge, self.read_apart)

    def __repr__(self) -> str:
        return f"<Readers {len(self)} open, {self.apart} apart, {self.tasks} tasks>"

    def __len__(self) -> int:
        return len(self._began)

    @property
    def tasks(self) -> int:
        """Tasks that run beside the calls."""
        return len(self._tasks)

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for slow callers."""
        return sum(reading.held_bytes for reading in self._began)

    def _oldest_open(self) -> float:
        """When the oldest call began whose log is still needed here; 0: there is none."""
        return min((began for reading, began in self._began.items() if not reading.over), default=0.0)

    def of(self, call: str) -> set[Reading]:
        """The readers of one call."""
        return self._open.get(call, set())

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: the log is missing, or the broker does not answer.
        """
        subject = subjects.logs_of_bridge(self._token)
        self._follower = await self._bus.follow(topology.LOG, subject, self._on_frame, self._on_log, from_start=False)
        await self.withdrawals.start()
        await self.gauge.start()
        self._clock = asyncio.get_running_loop().create_task(self._keep_time())

    async def stop(self) -> None:
        """Listen no more. Calls that are still open must have been given up before."""
        await self.gauge.stop()
        await self.withdrawals.stop()
        if self._clock is not None:
            self._clock.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        if self._follower is not None:
            await self._follower.stop()

    def register(self, reading: Reading) -> Reading:
        """Read a call from now on."""
        if not reading.apart:
            reading.reads(self._log)
        self._open.setdefault(reading.call, set()).add(reading)
        self._began[reading] = reading.began
        return reading

    def forget(self, reading: Reading) -> None:
        """Read it no more."""
        readings = self._open.get(reading.call)
        if readings is not None:
            readings.discard(reading)
            if not readings:
                del self._open[reading.call]
        self._began.pop(reading, None)
        if reading.own_follower is not None:
            follower, reading.own_follower = reading.own_follower, None
            self.apart -= 1
            self.spawn(follower.stop())

    def fail_all(self, fault: Fault) -> int:
        """Have every reader show what it holds, and end so.

        Returns:
            How many there are.
        """
        for reading in list(self._began):
            reading.fail(fault)
        return len(self._began)

    async def read_apart(self, reading: Reading) -> None:
        """Have a reader follow all that is said on its call, from the start, by a consumer of its own.

        Raises:
            Overloaded: there are too many such readers.
            Fault: the log cannot be read.
        """
        if self.apart >= self._settings.joined_readers:
            raise Overloaded("Too many calls are read again", "重新读取的请求过多", self._settings.joined_readers)
        self.apart += 1
        reading.apart = True
        reading.inbox = subjects.logs_of_call(reading.call)
        try:
            follower = await self._bus.follow(
                topology.LOG,
                reading.inbox,
                lambda _, sequence, data: reading.on_frame(sequence, data),
                reading.reads,
                from_start=True,
            )
        except BaseException as e:
            self.apart -= 1
            if isinstance(e, TransportError):
                raise fault_of(e) from None
            raise
        reading.own_follower = follower
        if reading not in self._began:  # it was given up meanwhile
            self.forget(reading)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something beside the calls, and keep hold of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Frames.

    def _on_frame(self, subject: str, sequence: int, data: bytes) -> None:
        call = subject.rpartition(".")[2]
        readings = self._open.get(call)
        if readings is None:
            self.withdrawals.heard(call)
            return
        for reading in readings:
            if not reading.apart:
                reading.on_frame(sequence, data)

    def _on_log(self, log_name: str) -> None:
        self._log = log_name
        for reading in self._began:
            if not reading.apart:
                reading.reads(log_name)

    def credit(self, reading: Reading) -> None:
        """Let the worker go on, before it runs out of what it was granted."""
        if reading.worker and reading.granted - reading.taken < max(1, self._settings.window_frames // 8):
            reading.granted = reading.taken + self._settings.window_frames
            self._say_credit(reading.worker, [reading])

    def _say_credit(self, worker: str, readings: list[Reading]) -> None:
        grants = [bus_pb2.Credit.Grant(call=r.call, up_to=r.granted) for r in readings]
        try:
            self._bus.publish(subjects.credit(worker), bus_pb2.Credit(grants=grants).SerializeToString())
        except TransportError:
            log.debug("credit_not_sent", worker=worker)  # the next beat says it again

    # Time.

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                self._tick(time.monotonic())
            except Exception:
                log.exception("tick_failed")

    def _tick(self, now: float) -> None:
        for reading in self._began:
            if reading.end is None and now - reading.heard > self._settings.lease_seconds:
                self._judge(reading)
        if now - self._beaten >= self._settings.beat_seconds:
            self._beaten = now
            self._repeat_credit()
            self.withdrawals.tick(now)

    def _judge(self, reading: Reading) -> None:
        if reading not in self._judged:
            self._judged.add(reading)
            self.spawn(self._ask_record(reading))

    async def _ask_record(self, reading: Reading) -> None:
        try:
            await self._silence.judge(reading)
        except Fault as e:
            reading.fail(e)
        finally:
            self._judged.discard(reading)

    def _repeat_credit(self) -> None:
        lots: dict[str, list[Reading]] = {}
        for reading in self._began:
            if reading.worker and reading.granted > self._settings.window_frames:
                lots.setdefault(reading.worker, []).append(reading)
        for worker, readings in lots.items():
            self._say_credit(worker, readings)
