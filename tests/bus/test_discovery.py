"""Workers answer as the NATS services framework says, and the bridge's view of them is fresh."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any

from qingyu_ai.bus.discovery import VIEW_AGE, Presence
from qingyu_ai.bus.transport import Bus
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.system import Connect, close_system, echo, open_system, spell
from tests.waiting import eventually

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nats.micro.service import ServiceInfo, ServicePing, ServiceStats


async def ask(bus: Bus, subject: str) -> dict[str, Any]:
    body, _ = await bus.ask(subject, b"", timeout=2)
    answer = json.loads(body)
    assert isinstance(answer, dict)
    return answer


async def test_standard_tooling_reads_ping_info_and_stats(connect: Connect, settings: BusSettings) -> None:
    system = await open_system(connect, settings)
    worker = await system.worker(chat=echo, stream=spell)
    await system.chat("你好")
    bus = await connect()
    ping = ServicePing.from_dict(await ask(bus, "$SRV.PING"))
    assert (ping.name, ping.id, ping.type) == ("qingyu-chat", worker.token, "io.nats.micro.v1.ping_response")
    info = ServiceInfo.from_dict(await ask(bus, "$SRV.INFO.qingyu-chat"))
    assert {e.name: e.subject for e in info.endpoints} == {
        "Chat": "ai.job.chat.complete",
        "ChatStream": "ai.job.chat.stream",
    }

    async def counted() -> bool:
        stats = ServiceStats.from_dict(await ask(bus, f"$SRV.STATS.qingyu-chat.{worker.token}"))
        return {e.name: (e.num_requests, e.num_errors) for e in stats.endpoints} == {
            "Chat": (1, 0),
            "ChatStream": (0, 0),
        }

    await eventually(counted)
    await close_system(system)


async def test_view_forgets_a_worker_within_a_second_or_so(connect: Connect, settings: BusSettings) -> None:
    system = await open_system(connect, settings)
    worker = await system.worker(chat=echo)
    assert system.presence.has("chat")
    assert not system.presence.has("agent")
    await worker._announcement.stop()  # as a death does: it just stops to answer
    gone = time.monotonic()
    await eventually(lambda: not system.presence.has("chat"))
    assert time.monotonic() - gone < VIEW_AGE + 3
    await close_system(system)


async def test_other_services_on_the_same_broker_are_not_workers(connect: Connect) -> None:
    bus = await connect()
    answer = {"name": "somebody-else", "id": "x", "version": "1.0.0", "metadata": {"kind": "chat"}}
    await bus.subscribe("$SRV.PING", lambda s, reply, d, h: bus.publish(reply, json.dumps(answer).encode()))
    presence = Presence(bus, f"{bus.inbox}.srv.presence")  # type: ignore[attr-defined]
    await presence.start()
    await presence.ask_now(["chat"], 0.2)
    assert not presence.has("chat")
    await presence.stop()
