"""What a process holds: told on SIGUSR2, as a line of its log. The metrics show less.

{"insides": 3, "tasks": 12, "waiting": 1}
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import time
from types import FrameType

from qingyu_ai.bus.connection import NatsBus
from tests.process import Running

from .clients import until


def install() -> None:
    """Have this process tell."""
    told = itertools.count(1)

    def tell(number: int, frame: FrameType | None) -> None:
        objects = gc.get_objects()
        tasks = sum(isinstance(o, asyncio.Task) and not o.done() for o in objects)
        waiting = sum(o.waiting for o in objects if isinstance(o, NatsBus))
        line = json.dumps({"insides": next(told), "tasks": tasks, "waiting": waiting})
        os.write(1, f"\n{line}\n".encode())  # print is not for signal handlers

    signal.signal(signal.SIGUSR2, tell)


def _told(process: Running) -> list[dict[str, int]]:
    return [json.loads(line) for line in process.log.splitlines() if line.startswith('{"insides"')]


async def insides(process: Running, timeout: float = 10.0) -> dict[str, int]:
    """Ask a process that runs with FAULTS_INSIDES.

    Returns:
        Its open tasks, and its requests on the bus that wait for an answer.
    """
    before = len(_told(process))
    os.kill(process.pid, signal.SIGUSR2)
    if not await until(lambda: len(_told(process)) > before, timeout):
        raise AssertionError(f"{process.name} does not tell what it holds")
    last = _told(process)[-1]
    return {name: last[name] for name in ("tasks", "waiting")}


async def shrinks_to(process: Running, at_most: dict[str, int], timeout: float = 10.0) -> dict[str, int]:
    """Ask until it holds no more than it did.

    Returns:
        What it holds beyond that in the end; empty: nothing.
    """
    end = time.monotonic() + timeout
    while True:
        now = await insides(process)
        more = {name: now[name] - at_most[name] for name in now if now[name] > at_most[name]}
        if not more or time.monotonic() > end:
            return more
        await asyncio.sleep(0.3)
