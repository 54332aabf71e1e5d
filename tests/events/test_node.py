"""Another language reads events by what is documented: subjects, headers, and the .proto file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable

import pytest

from qingyu_ai.bus import record
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import Decided, Observed
from qingyu_ai.bus.transport import Bus
from qingyu_ai.contract import bus_pb2
from qingyu_ai.events import cloudevents
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.nats_cluster import AnyNats
from tests.optional import ROOT, require_npm, require_tool

COST = {"x-model": "深度", "x-usage-prompt": "12", "x-usage-completion": "30", "x-usage-estimated": "false"}


def decided(number: int) -> Decided:
    envelope = Envelope(f"{number:032x}", f"req_{number}", Deadline.after(1), user=f"用户{number}", project="p1")
    held = bus_pb2.Record(state=record.DONE, at_ms=5000, end=bus_pb2.End(trailers=COST))
    return Decided(Observed("chat", "Chat", "", envelope, 3), 7, held)


@pytest.mark.once
async def test_program_in_node_prints_what_calls_have_cost(
    connect: Callable[[], Awaitable[Bus]], settings: BusSettings, nats_process: AnyNats
) -> None:
    node = require_tool("node")
    modules = require_npm("@nats-io/transport-node", "@nats-io/jetstream", "protobufjs")
    bus = await connect()
    assert isinstance(bus, NatsBus)
    publisher = Publisher(bus, settings)
    publisher.started(decided(1).call, "w", 1)  # which it does not ask for
    await publisher.decided(decided(1))
    await bus.store("ai.events.v1.chat.completed.none", b"stray", timeout=2)  # no event, which must not end it
    later = cloudevents.encode("1", "/s", "qingyu.ai.events.v2.CallCompleted", 0, "c", "", unique=False)
    await bus.store("ai.events.v1.chat.completed.none", b"", headers=later, timeout=2)
    await publisher.decided(decided(2))
    program = await asyncio.create_subprocess_exec(
        node,
        str(ROOT / "examples" / "usage_events.cjs"),
        nats_process.url,
        str(ROOT / "proto" / "events.proto"),
        "2",
        env={**os.environ, "NODE_PATH": str(modules)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(program.communicate(), 40)
    assert program.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.decode().splitlines()]
    assert [(line["id"], line["user"]) for line in lines] == [
        (f"{1:032x}.7", "用户1"),
        (f"{2:032x}.7", "用户2"),
    ]
    assert err.decode().count("cannot be read") == 2
    usage = lines[0]["usage"]
    assert (usage["model"], usage["promptTokens"], usage["completionTokens"], usage["estimated"]) == (
        "深度",
        12,
        30,
        False,
    )
