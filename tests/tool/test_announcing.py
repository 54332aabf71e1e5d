"""Who has a tool's name, on the in-memory twin and on a real nats-server alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from qingyu_ai.bus import topology
from qingyu_ai.bus.transport import Bus
from services.tool.announcing import Announcer, OtherTool
from services.tool.registry import Announced, Registry, read
from tests.bus.conftest import connect as connect  # the fixture
from tests.bus.system import Connect
from tests.tool.test_registry import LEASE, announced, listing, names
from tests.tool.test_registry import registry as registry  # the fixtures
from tests.tool.test_registry import settings as settings
from tests.waiting import eventually


@pytest.fixture
async def written(connect: Connect) -> AsyncIterator[list[Announced]]:
    """Every entry that anybody writes, in order."""
    found: list[Announced] = []

    def on_entry(subject: str, sequence: int, data: bytes) -> None:
        if data and (entry := read(data)):
            found.append(entry)

    bus = await connect()
    view = await bus.follow(topology.TOOLS, topology.tool_key("*", "*"), on_entry, lambda _: None, from_start=True)
    yield found
    await view.stop()


def announcer(bus: Bus, worker: str, *tools: Any) -> Announcer:
    return Announcer(bus, worker, LEASE, tools)


async def test_same_name_with_another_schema_is_refused_and_was_never_listed(
    connect: Connect, registry: Registry, written: list[Announced]
) -> None:
    async with announced(await connect(), "w1", listing()):
        other = announcer(await connect(), "w2", listing("split"), listing(digest="d2"))
        with pytest.raises(OtherTool, match=r"tool 'count' is served by worker w1 with other parameters; stop"):
            await other.claim()
        await eventually(lambda: names(registry) == ["count"])
        assert registry.find("count") == listing()
    assert not any(entry.ready for entry in written if entry.worker == "w2")
    async with announced(await connect(), "w2", listing(digest="d2")):
        await eventually(lambda: registry.find("count") == listing(digest="d2"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"requires_auth": True}, "with other requires_auth;"),
        ({"repeatable": False}, "with other repeatable;"),
        ({"requires_auth": True, "digest": "d2"}, "with other parameters and requires_auth;"),
    ],
)
async def test_what_callers_are_promised_must_be_the_same_everywhere(
    connect: Connect, fields: dict[str, Any], said: str
) -> None:
    async with announced(await connect(), "w1", listing()):
        other = announcer(await connect(), "w2", listing().model_copy(update=fields))
        with pytest.raises(OtherTool, match=said):
            await other.claim()


async def test_words_and_time_may_differ_while_one_takes_the_others_place_and_the_log_says_so(connect: Connect) -> None:
    with capture_logs() as lines:
        async with announced(await connect(), "w1", listing()):
            update = {"description": "再数", "category": "book", "seconds": 9.0}
            async with announced(await connect(), "w2", listing().model_copy(update=update)):
                pass
    [line] = [line for line in lines if line["event"] == "tool_described_otherwise"]
    assert (line["tool"], line["worker"], line["differs"]) == ("count", "w1", ["description", "category", "seconds"])


@pytest.mark.parametrize("together", range(5))
async def test_of_those_that_start_at_once_with_different_tools_exactly_one_starts(
    connect: Connect, registry: Registry, written: list[Announced], together: int
) -> None:
    """In which order each names its tools makes no difference: it claims them by name."""
    starting = [
        announcer(await connect(), f"w{i}", *(listing(name, digest=f"d{i}") for name in order))
        for i, order in enumerate([("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
    ]
    results = await asyncio.gather(*(one.start() for one in starting), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "OtherTool", "OtherTool"]
    winner = results.index(None)
    await eventually(lambda: names(registry) == ["a", "b", "c"])
    assert {entry.worker for entry in written if entry.ready} == {f"w{winner}"}
    for one in starting:
        await one.stop()
    await eventually(lambda: names(registry) == [])


async def test_a_name_that_is_claimed_and_never_served_is_given_back(connect: Connect, registry: Registry) -> None:
    first = announcer(await connect(), "w1", listing())
    await first.claim([listing("later")])
    assert names(registry) == []
    await first.stop()
    async with announced(await connect(), "w2", listing("later", digest="d2"), listing(digest="d2")):
        await eventually(lambda: names(registry) == ["count", "later"])


async def test_a_copy_of_the_bucket_that_is_behind_is_asked_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a copy does not have yet is another worker's claim, perhaps, which came before ours."""
    bus = await connect()
    one = announcer(bus, "w1", listing())
    whole, looks = bus.next, 0

    async def behind(stream: str, subject: str, sequence: int, *, timeout: float) -> Any:
        nonlocal looks
        looks += sequence == 1
        return None if looks <= 3 else await whole(stream, subject, sequence, timeout=timeout)

    monkeypatch.setattr(bus, "next", behind)
    await one.claim()
    assert looks == 4  # one before its own entry is written, then until a copy has that
    await one.stop()


async def test_tool_that_comes_with_another_schema_is_refused_alone(connect: Connect, registry: Registry) -> None:
    async with (
        announced(await connect(), "w1", listing()),
        announced(await connect(), "w2", listing("split")) as second,
    ):
        with pytest.raises(OtherTool, match="'count' is served by worker w1"):
            await second.add(listing(digest="d2"))
        await asyncio.sleep(LEASE)
        assert names(registry) == ["count", "split"]
        assert registry.find("count") == listing()
