"""A small system whose events are published, on a real nats-server, and what was published there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.transport import Bus
from qingyu_ai.events import BEGINNING, Event, subscribe
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST, clean
from tests.bus.system import System, close_system, open_system
from tests.nats_cluster import AnyNats
from tests.waiting import eventually

TERMINAL = ("completed", "failed", "cancelled", "dead_lettered")


@dataclass
class Published:
    """The events of a test's broker, and who publishes them."""

    servers: list[str]
    publishers: list[Publisher] = field(default_factory=list)

    async def all(self, *names: str) -> list[Event]:
        """All events that the stream has now, the oldest first.

        Args:
            names: only these.
        """
        bus = await NatsBus.open(self.servers, "reader", on_closed=lambda: None)
        used = (await bus.jetstream.stream_info(topology.EVENTS)).state
        await bus.close()
        found: list[Event] = []
        if not used.messages:
            return found
        async with subscribe(self.servers, since=BEGINNING) as events:
            async for event in events:
                found.append(event)
                if event.sequence >= used.last_seq:
                    break
        return [event for event in found if not names or event.name in names]

    async def await_all(self, *names: str, count: int) -> list[Event]:
        """Wait until there are so many: what may be shed is stored some time after it was sent."""
        found: list[Event] = []

        async def there() -> bool:
            found[:] = await self.all(*names)
            return len(found) >= count

        await eventually(there)
        return found

    async def ends(self, call: str) -> list[Event]:
        """The last events of a call."""
        return [event for event in await self.all(*TERMINAL) if event.attributes.subject == call]


@pytest.fixture
def settings() -> BusSettings:
    """Times of the protocol for this test; override to change them."""
    return FAST


@pytest.fixture
async def connect(nats_process: AnyNats, settings: BusSettings) -> AsyncIterator[Callable[[], Awaitable[Bus]]]:
    """Make connections to a broker whose streams are empty."""
    opened: list[Bus] = []
    await clean(nats_process, settings)

    async def open_one() -> Bus:
        opened.append(await NatsBus.open(nats_process.servers, "bridge", on_closed=lambda: None))
        return opened[-1]

    yield open_one
    for bus in opened:
        await bus.close()


@pytest.fixture
def published(nats_process: AnyNats) -> Published:
    """What was published."""
    return Published(nats_process.servers)


@pytest.fixture
async def system(
    connect: Callable[[], Awaitable[Bus]], settings: BusSettings, published: Published
) -> AsyncIterator[System]:
    """One caller, and the workers that a test adds; all of them publish."""

    def observe(bus: Bus) -> Publisher:
        published.publishers.append(Publisher(bus, settings))
        return published.publishers[-1]

    system = await open_system(connect, settings, observe)
    yield system
    await close_system(system)


@pytest.fixture
async def bus(nats_process: AnyNats, settings: BusSettings) -> AsyncIterator[NatsBus]:
    await clean(nats_process, settings)
    bus = await NatsBus.open(nats_process.servers, "test", on_closed=lambda: None)
    yield bus
    await bus.close()
