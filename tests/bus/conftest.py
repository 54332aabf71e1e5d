"""Two brokers for the same tests: the in-memory twin and a real nats-server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from nats.js.errors import NotFoundError

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.transport_errors import StoreRefused
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.system import Connect, System, close_system, open_system
from tests.nats_cluster import REPLICAS, AnyNats
from tests.waiting import eventually

FAST = BusSettings(
    beat_seconds=0.2,
    lease_seconds=1.0,
    ack_wait_seconds=1.0,
    in_progress_seconds=0.3,
    frame_ack_seconds=0.3,
    store_seconds=1.0,
    patience_seconds=2.0,
    replicas=REPLICAS,
)
"""The protocol's times, shortened so that a test can see a lease pass."""

NO_STORE = 10049
"""The error of a server that is still removing the files of a stream of the same name, on a disk that is busy."""


async def clean(process: AnyNats, settings: BusSettings) -> None:
    """Give a test streams of its own on the shared server."""
    bus = await NatsBus.open(process.servers, "cleaner", on_closed=lambda: None)
    for plan in topology.plans(settings):
        with contextlib.suppress(NotFoundError):
            await bus.jetstream.delete_stream(plan.name)

    async def made() -> bool:
        try:
            await bus.ensure_topology(settings)
        except StoreRefused as e:
            if e.code != NO_STORE:
                raise
            return False
        return True

    await eventually(made)
    await bus.close()


@pytest.fixture
def settings() -> BusSettings:
    """Times of the protocol for this test; override to change them."""
    return FAST


@pytest.fixture(params=["memory", "nats"])
async def connect(request: pytest.FixtureRequest, settings: BusSettings) -> AsyncIterator[Connect]:
    """Make connections to one broker."""
    opened: list[Bus] = []
    broker: Broker | None = None
    process: AnyNats | None = None
    if request.param == "memory":
        broker = Broker(settings)
    else:
        process = request.getfixturevalue("nats_process")
        await clean(process, settings)

    async def open_one() -> Bus:
        bus: Bus
        if broker is not None:
            bus = MemoryBus(broker)
        else:
            assert process is not None
            bus = await NatsBus.open(process.servers, "bridge", on_closed=lambda: None)
        opened.append(bus)
        return bus

    yield open_one
    for bus in opened:
        await bus.close()
    if broker is not None:
        broker.close()


@pytest.fixture
async def system(connect: Connect, settings: BusSettings) -> AsyncIterator[System]:
    """One caller, and the workers that a test adds."""
    system = await open_system(connect, settings)
    yield system
    await close_system(system)
