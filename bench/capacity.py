"""How many streams of 50 deltas a second one worker process holds on one core without falling behind, read at the bus.

The worker has a core to itself; NATS, the upstream and this reader share the other. Each step has more streams; it holds if no
stream ended later than its pace allows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time

import psutil
from rich.console import Console

from bench.novel import novel
from bench.processes import Processes, cpu_seconds
from qingyu_ai import routes
from qingyu_ai.bus import subjects
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.discovery import Presence
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.settings import Bus as BusSettings
from tests.upstream.process import Upstream

PACE = 50.0
SECONDS = 6
STEPS = (50, 100, 150, 200, 250, 300, 350, 400, 500, 600)
LATE_SECONDS = 0.3
"""What a stream of 6 s may take longer, its start included."""


async def find_capacity(processes: Processes, nats: str, upstream: Upstream, console: Console) -> None:
    """Print a line for each step, up to the first that does not hold."""
    deltas = int(PACE * SECONDS)
    upstream.script("capacity", novel(deltas, PACE))
    model = {"base_url": upstream.base_url, "model": "capacity", "connections": 5000}
    env = {
        "NATS_URL": nats,
        "QINGYU_CHAT__METRICS_PORT": "0",
        "QINGYU_CHAT__SLOTS": "5000",
        "QINGYU_LLM__MODELS": json.dumps({"capacity": model}),
    }
    processes.module("capacity-chat", "services.chat", env=env)
    worker = processes.pid("capacity-chat")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        psutil.Process(worker).cpu_affinity([cores[0]])
        for pid in (processes.pid("nats"), upstream.pid, os.getpid()):
            psutil.Process(pid).cpu_affinity(cores[1:])
    settings = BusSettings()
    bus = await NatsBus.open([nats], "bridge", on_closed=lambda: None)
    await bus.ensure_topology(settings)
    presence = Presence(bus, f"{bus.inbox}.srv.presence")
    caller = Caller(bus, settings, presence)
    await presence.start()
    await caller.start()
    for _ in range(200):
        if presence.has("chat"):
            break
        await asyncio.sleep(0.1)
    held, cost = 0, 0.0
    for streams in STEPS:
        before, others = cpu_seconds(worker), cpu_seconds(upstream.pid) + cpu_seconds(processes.pid("nats"))
        began = time.monotonic()
        took = await asyncio.gather(*(read(caller, i / streams) for i in range(streams)))
        seconds = time.monotonic() - began
        used = cpu_seconds(worker) - before
        beside = cpu_seconds(upstream.pid) + cpu_seconds(processes.pid("nats")) - others
        late = sum(one > SECONDS + LATE_SECONDS for one in took)
        per_delta = used / (streams * deltas) * 1e6
        console.print(
            f"{streams} streams: the slowest took {max(took):.2f} s of {SECONDS}; {late} fell behind; "
            f"worker {used / seconds:.0%} of its core, {per_delta:.1f} µs a delta; "
            f"NATS and upstream {beside / seconds:.0%} of the other"
        )
        if late:
            break
        held, cost = streams, per_delta
    console.print(
        f"One worker core held {held} streams of {PACE:g} deltas a second; at {cost:.1f} µs a delta a whole core is "
        f"{1e6 / cost / PACE if cost else 0:.0f}.\n"
    )
    await caller.stop()
    await presence.stop()
    await bus.close()
    processes.stop("capacity-chat")


async def read(caller: Caller, delay: float) -> float:
    """Read one stream at the bus; returns the seconds from its submission to its end."""
    await asyncio.sleep(delay)
    body = ai.ChatRequest(messages=[common.Message(role="user", content="写一章")]).SerializeToString()
    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    request_id = os.urandom(8).hex()
    call = subjects.call_id("bench", routes.CHAT_STREAM.method, request_id)
    envelope = Envelope(call, request_id, Deadline.after(60), user="bench", digest=digest)
    began = time.monotonic()
    reading = await caller.submit(routes.CHAT_STREAM, routes.CHAT_STREAM.subject, body, envelope, chosen=False)
    try:
        while await reading.take():
            caller.credit(reading)
        assert reading.end is not None, "a reading ends with an end or a fault"
        assert not reading.end.status, "the stream failed"
    finally:
        caller.close(reading)
    return time.monotonic() - began
