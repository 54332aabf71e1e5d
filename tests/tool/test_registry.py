"""The registry of tools, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.record import now_ms
from qingyu_ai.bus.transport import Bus
from qingyu_ai.settings import Bus as BusSettings
from services.tool.announcing import Announcer
from services.tool.registry import Announced, Listing, Parameter, Registry
from tests.bus.conftest import FAST
from tests.bus.conftest import connect as connect  # the fixture
from tests.bus.system import Connect
from tests.waiting import eventually

LEASE = 0.6


@pytest.fixture
def settings() -> BusSettings:
    return FAST.model_copy(update={"tool_lease_seconds": LEASE})


def listing(name: str = "count", *, category: str = "text", digest: str = "d1") -> Listing:
    parameters = (Parameter(name="text", type="string", required=True),)
    return Listing(name=name, description="数一数", category=category, parameters=parameters, digest=digest)


@pytest.fixture
async def registry(connect: Connect, settings: BusSettings) -> AsyncIterator[Registry]:
    """A view of the bucket."""
    view = Registry(await connect(), LEASE)
    await view.start()
    yield view
    await view.stop()


@contextlib.asynccontextmanager
async def announced(bus: Bus, worker: str, *listings: Listing) -> AsyncIterator[Announcer]:
    announcer = Announcer(bus, worker, LEASE, listings)
    await announcer.start()
    try:
        yield announcer
    finally:
        await announcer.stop()


def names(registry: Registry, category: str = "") -> list[str]:
    return [one.name for one in registry.list(category)]


async def test_tool_is_listed_for_as_long_as_its_worker_lives(connect: Connect, registry: Registry) -> None:
    assert names(registry) == []
    patient = Registry(await connect(), 3600.0)  # what leaves its list has been taken from it, and not expired
    await patient.start()
    async with announced(await connect(), "w1", listing(), listing("split", category="book")):
        await eventually(lambda: names(registry) == ["count", "split"])
        assert names(registry, "book") == ["split"]
        assert registry.find("count") == listing()
        await asyncio.sleep(LEASE * 2)  # it says so again and again
        assert names(registry) == ["count", "split"]
    await eventually(lambda: names(registry) == [] == names(patient))
    assert registry.find("count") is None
    await patient.stop()


async def test_tool_of_a_worker_that_vanished_leaves_the_list(connect: Connect, registry: Registry) -> None:
    bus = await connect()
    announcer = Announcer(bus, "w1", LEASE, [listing()])
    await announcer.start()
    await eventually(lambda: names(registry) == ["count"])
    await bus.close()
    await eventually(lambda: names(registry) == [])


async def test_tool_of_two_workers_stays_when_one_of_them_stops(connect: Connect, registry: Registry) -> None:
    async with announced(await connect(), "w1", listing()):
        async with announced(await connect(), "w2", listing()):
            await eventually(lambda: names(registry) == ["count"])
        await asyncio.sleep(LEASE / 4)
        assert names(registry) == ["count"]
    await eventually(lambda: names(registry) == [])


async def test_view_that_comes_later_does_not_believe_what_is_old(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    announcer = Announcer(bus, "w1", LEASE, [listing()])
    await announcer.start()
    gone = await connect()
    await bus.close()
    await asyncio.sleep(LEASE * 0.7)
    late = Registry(gone, LEASE)
    await late.start()
    await eventually(lambda: names(late) == [])
    await late.stop()


async def test_entry_that_is_none_is_left_out(connect: Connect, registry: Registry) -> None:
    bus = await connect()
    await bus.store(topology.tool_key("odd", "w9"), b'{"listing": 3}', timeout=2)
    async with announced(bus, "w1", listing()):
        await eventually(lambda: names(registry) == ["count"])


async def test_tools_come_and_go_while_their_worker_lives(connect: Connect, registry: Registry) -> None:
    async with announced(await connect(), "w1", listing()) as announcer:
        await announcer.add(listing("split"))
        await eventually(lambda: names(registry) == ["count", "split"])
        await announcer.add(listing("split", category="book"))
        await eventually(lambda: names(registry, "book") == ["split"])
        await asyncio.sleep(LEASE * 2)
        assert names(registry) == ["count", "split"]
        await announcer.remove("split")
        await announcer.remove("split")
        await eventually(lambda: names(registry) == ["count"])
        await asyncio.sleep(LEASE / 2)
        assert names(registry) == ["count"]
    await eventually(lambda: names(registry) == [])


async def test_an_entry_counts_for_the_lease_from_when_it_was_written_and_not_from_when_it_is_read(
    connect: Connect,
) -> None:
    """Ages, not waits: the lease is an hour, and the entries say that they are old."""
    bus, hour = await connect(), 3600.0
    for name, age in (("young", 0.5), ("old", 1.5), ("from_tomorrow", -20.0)):
        entry = Announced(listing=listing(name), worker="w1", at_ms=now_ms() - round(age * hour * 1000))
        await bus.store(topology.tool_key(name, "w1"), entry.model_dump_json().encode(), timeout=2)
    view = Registry(bus, hour)
    await view.start()
    await eventually(lambda: "young" in names(view))
    assert names(view) == ["from_tomorrow", "young"]
    until = {tool: until - time.monotonic() for (tool, _), (_, until, _) in view._entries.items()}
    assert 0.49 * hour < until["young"] < 0.51 * hour
    assert 0.99 * hour < until["from_tomorrow"] <= hour  # a clock that is ahead buys no more than a lease
    await view.stop()


async def test_of_two_workers_that_describe_one_tool_otherwise_the_longer_served_one_is_listed(
    connect: Connect, registry: Registry
) -> None:
    async with (
        announced(await connect(), "w1", listing(category="first")),
        announced(await connect(), "w2", listing(category="second")),
    ):
        await eventually(lambda: len(registry._entries) == 2)
        await asyncio.sleep(LEASE)  # both have announced it again
        assert registry.find("count") == listing(category="first")
        assert names(registry, "second") == []
    await eventually(lambda: names(registry) == [])
