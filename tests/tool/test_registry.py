"""The registry of tools, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.transport import Bus
from qingyu_ai.settings import Bus as BusSettings
from services.tool.registry import Announcer, Listing, OtherSchema, Parameter, Registry
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
    async with announced(await connect(), "w1", listing(), listing("split", category="book")):
        await eventually(lambda: names(registry) == ["count", "split"])
        assert names(registry, "book") == ["split"]
        assert registry.find("count") == listing()
        await asyncio.sleep(LEASE * 2)  # it says so again and again
        assert names(registry) == ["count", "split"]
    await eventually(lambda: names(registry) == [], timeout=LEASE / 2)
    assert registry.find("count") is None


async def test_tool_of_a_worker_that_vanished_leaves_the_list(connect: Connect, registry: Registry) -> None:
    bus = await connect()
    announcer = Announcer(bus, "w1", LEASE, [listing()])
    await announcer.start()
    await eventually(lambda: names(registry) == ["count"])
    await bus.close()
    await eventually(lambda: names(registry) == [], timeout=LEASE * 3)


async def test_tool_of_two_workers_stays_when_one_of_them_stops(connect: Connect, registry: Registry) -> None:
    async with announced(await connect(), "w1", listing()):
        async with announced(await connect(), "w2", listing()):
            await eventually(lambda: names(registry) == ["count"])
        await asyncio.sleep(LEASE / 4)
        assert names(registry) == ["count"]
    await eventually(lambda: names(registry) == [])


async def test_same_name_with_another_schema_is_refused_at_the_start(connect: Connect, registry: Registry) -> None:
    async with announced(await connect(), "w1", listing()):
        other = Announcer(await connect(), "w2", LEASE, [listing("split"), listing(digest="d2")])
        with pytest.raises(OtherSchema, match=r"tool 'count' is served by worker w1 with other parameters; stop"):
            await other.start()
        await eventually(lambda: names(registry) == ["count"])
        assert registry.find("count") == listing()
    async with announced(await connect(), "w2", listing(digest="d2")):
        await eventually(lambda: registry.find("count") == listing(digest="d2"))


async def test_of_two_that_start_at_once_with_different_schemas_one_is_refused(connect: Connect) -> None:
    starting = [Announcer(await connect(), f"w{i}", LEASE, [listing(digest=f"d{i}")]) for i in range(2)]
    results = await asyncio.gather(*(announcer.start() for announcer in starting), return_exceptions=True)
    assert any(isinstance(result, OtherSchema) for result in results)
    for announcer in starting:
        await announcer.stop()


async def test_view_that_comes_later_does_not_believe_what_is_old(connect: Connect, settings: BusSettings) -> None:
    bus = await connect()
    announcer = Announcer(bus, "w1", LEASE, [listing()])
    await announcer.start()
    gone = await connect()
    await bus.close()
    await asyncio.sleep(LEASE * 0.7)
    late = Registry(gone, LEASE)
    await late.start()
    await eventually(lambda: names(late) == [], timeout=LEASE)
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


async def test_tool_that_comes_with_another_schema_is_refused_alone(connect: Connect, registry: Registry) -> None:
    async with (
        announced(await connect(), "w1", listing()),
        announced(await connect(), "w2", listing("split")) as second,
    ):
        with pytest.raises(OtherSchema, match="'count' is served by worker w1"):
            await second.add(listing(digest="d2"))
        await asyncio.sleep(LEASE)
        assert names(registry) == ["count", "split"]
        assert registry.find("count") == listing()
