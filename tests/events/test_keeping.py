"""Events of decided calls are stored together, and each of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.transport_errors import PayloadTooLarge, TransportError
from qingyu_ai.events import cloudevents
from qingyu_ai.events.keeping import MOST, Keeper
from qingyu_ai.settings import Bus as BusSettings

SUBJECT = "ai.events.v1.chat.completed.none"


@pytest.fixture
async def bus(connect: Callable[[], Awaitable[Bus]]) -> NatsBus:
    bus = await connect()
    assert isinstance(bus, NatsBus)
    return bus


def keep(keeper: Keeper, id: str, data: bytes = b"x") -> Awaitable[None]:
    headers = cloudevents.encode(id, "/s", "t", 0, "c", "", unique=True)
    return keeper.keep(id, SUBJECT, data, headers)


async def stored(bus: NatsBus) -> list[str]:
    """Ids, in the order of the stream."""
    state = (await bus.jetstream.stream_info(topology.EVENTS)).state
    found = [await bus.jetstream.get_msg(topology.EVENTS, n) for n in range(1, state.last_seq + 1)]
    return [(message.headers or {})["ce-id"] for message in found]


def acknowledgements(bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the stream, from now on."""
    asked: list[str] = []
    ask = NatsBus.ask

    async def noted(self: NatsBus, subject: str, data: bytes, **more: float) -> object:
        if subject == SUBJECT:
            asked.append(subject)
        return await ask(self, subject, data, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(NatsBus, "ask", noted)
    return asked


async def test_what_waits_goes_out_together_and_what_comes_alone_at_once(
    bus: NatsBus, settings: BusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = acknowledgements(bus, monkeypatch)
    keeper = Keeper(bus, settings)
    await keep(keeper, "alone")
    assert len(asked) == 1
    await asyncio.gather(*(keep(keeper, str(n)) for n in range(2 * MOST)))
    assert len(asked) == 3
    assert await stored(bus) == ["alone", *(str(n) for n in range(2 * MOST))]


async def test_event_that_is_known_does_not_keep_the_others_from_being_stored(
    bus: NatsBus, settings: BusSettings
) -> None:
    keeper = Keeper(bus, settings)
    await keep(keeper, "1")
    await asyncio.gather(*(keep(keeper, id) for id in ("2", "1", "3", "2")))
    assert sorted(await stored(bus)) == ["1", "2", "3"]


async def test_server_without_batches_gets_one_after_the_other(bus: NatsBus, settings: BusSettings) -> None:
    stream = (await bus.jetstream.stream_info(topology.EVENTS)).config
    await bus.jetstream.update_stream(stream.evolve(allow_atomic=False))
    keeper = Keeper(bus, settings)
    await asyncio.gather(*(keep(keeper, str(n)) for n in range(5)))
    assert sorted(await stored(bus)) == ["0", "1", "2", "3", "4"]


async def test_event_that_is_too_large_fails_alone(bus: NatsBus, settings: BusSettings) -> None:
    keeper = Keeper(bus, settings)
    results = await asyncio.gather(
        keep(keeper, "1"), keep(keeper, "2", b"x" * (bus.max_payload + 1)), keep(keeper, "3"), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), PayloadTooLarge, type(None)]
    assert sorted(await stored(bus)) == ["1", "3"]


async def test_stream_that_is_gone_is_an_error_in_time_and_one_that_comes_back_none(
    bus: NatsBus, settings: BusSettings
) -> None:
    keeper = Keeper(bus, settings.model_copy(update={"patience_seconds": 0.5}))
    await bus.jetstream.delete_stream(topology.EVENTS)
    results = await asyncio.gather(*(keep(keeper, str(n)) for n in range(3)), return_exceptions=True)
    assert all(isinstance(result, TransportError) for result in results)
    patient = Keeper(bus, settings)
    waiting = [asyncio.ensure_future(keep(patient, str(n))) for n in range(3)]
    await asyncio.sleep(0)
    await bus.ensure_topology(settings)
    await asyncio.gather(*waiting)
    assert sorted(await stored(bus)) == ["0", "1", "2"]


async def test_whoever_no_longer_waits_disturbs_nobody(bus: NatsBus, settings: BusSettings) -> None:
    keeper = Keeper(bus, settings)
    gone, there = asyncio.ensure_future(keep(keeper, "1")), asyncio.ensure_future(keep(keeper, "2"))
    await asyncio.sleep(0)
    gone.cancel()
    await there
    assert "2" in await stored(bus)


async def test_defect_leaves_nobody_waiting(
    bus: NatsBus, settings: BusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object, **more: object) -> int:
        raise KeyError("seq")

    monkeypatch.setattr(NatsBus, "store", broken)
    keeper = Keeper(bus, settings)
    monkeypatch.setattr(keeper, "_commit", broken)
    results = await asyncio.gather(keep(keeper, "1"), keep(keeper, "2"), return_exceptions=True)
    assert all(isinstance(result, TransportError) for result in results)
