"""A bridge or an echo worker without some of the protocol's guards, to measure what each of them costs (`bench.guards`).

BENCH_PROCESS is `bridge` or `worker`; BENCH_WITHOUT names what is off: `acks`, `record`, `log`, comma separated. Nothing that is
off can be relied on: these processes exist for the bench alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

import bench.echo_worker
import bridge.__main__
from qingyu_ai.bus import subjects
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.record import Entry
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.speaker import Speaker
from qingyu_ai.bus.transport import OnFrame, Subscription
from qingyu_ai.contract import bus_pb2
from qingyu_ai.process import run

PROCESS, WITHOUT = "BENCH_PROCESS", "BENCH_WITHOUT"

revisions = itertools.count(1)


def acks() -> None:
    """A frame is said when it is sent. It lands at the loop's next turn, so what is said in one turn still goes out together."""

    def publish(self: Speaker) -> None:
        assert self._flying is not None
        self._bus.publish(self._inbox, self._flying)
        asyncio.get_running_loop().call_soon(land, self)

    def land(self: Speaker) -> None:
        self._landed()
        if self._pending or self._closing is not None:
            self._send()
        self._wake()

    Speaker._publish = publish  # type: ignore[method-assign]


def record() -> None:
    """Nobody claims a call and nobody decides it."""

    async def write(self: Records, call: str, value: bus_pb2.Record, expect: int) -> int:
        return next(revisions)

    async def read(self: Records, call: str, *, newest: bool = False) -> Entry | None:
        return None

    Records.write, Records.read = write, read  # type: ignore[method-assign]


def log() -> None:
    """Frames go to their reader over core NATS, and nobody keeps them."""

    async def follow(
        self: NatsBus,
        stream: str,
        subject: str,
        handler: OnFrame,
        on_stream: Callable[[str], None],
        *,
        from_start: bool,
    ) -> Subscription:
        sequence = itertools.count(1)
        return await self.subscribe(subject, lambda subject, _, data, __: handler(subject, next(sequence), data))

    subjects.log = lambda kind, bridge, call: f"bench.said.{kind}.{bridge}.{call}"
    subjects.logs_of_bridge = lambda bridge: f"bench.said.*.{bridge}.>"
    subjects.is_log = lambda subject, kind, call: True
    NatsBus.follow = follow  # type: ignore[method-assign]


OFF: dict[str, Callable[[], None]] = {"acks": acks, "record": record, "log": log}

if __name__ == "__main__":
    for guard in filter(None, os.environ.get(WITHOUT, "").split(",")):
        OFF[guard]()
    if os.environ[PROCESS] == "bridge":
        run("bridge", bridge.__main__.main)
    else:
        run("chat", bench.echo_worker.main)
