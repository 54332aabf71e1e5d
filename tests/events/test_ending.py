"""Subscriptions end: with the last event that there was, or because somebody closes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.consumers import Consumers
from qingyu_ai.bus.stream_api import StreamApi
from qingyu_ai.events import BEGINNING, Unreachable, subscribe, subscribing
from tests.events.reading import read_all, sequences, take, tell
from tests.nats_cluster import AnyNats
from tests.waiting import eventually


class TestThatEnds:
    """`follow=False`: what there was when it began, all of it, and then the end."""

    async def test_it_ends_with_the_last_one_though_more_come_all_the_while(
        self, bus: NatsBus, nats_process: AnyNats
    ) -> None:
        told = await tell(bus, count=5)
        found: list[int] = []
        async with asyncio.timeout(20), subscribe(nats_process.servers, since=BEGINNING, follow=False) as events:
            async for event in events:
                found.append(event.sequence)
                await tell(bus)
        assert found == told

    async def test_it_ends_at_once_where_there_is_nothing(self, bus: NatsBus, nats_process: AnyNats) -> None:
        await tell(bus)
        assert await read_all(subscribe(nats_process.servers, since=BEGINNING, service="rag", follow=False)) == []

    async def test_consumer_that_is_lost_meanwhile_costs_no_event_and_repeats_none(
        self, bus: NatsBus, nats_process: AnyNats
    ) -> None:
        told = await tell(bus, count=5)
        found: list[int] = []
        async with asyncio.timeout(20), subscribe(nats_process.servers, since=BEGINNING, follow=False) as events:
            consumers = Consumers(StreamApi(bus.ask), topology.EVENTS, 30)
            async for event in events:
                found.append(event.sequence)
                if len(found) == 1:
                    await consumers.drop(events._name)
                    await eventually(lambda: consumers.find(events._name))
        assert found == told

    async def test_reader_that_was_stopped_for_long_is_given_each_event_once(
        self, bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribing, "ACK_WAIT_SECONDS", 0.5)
        monkeypatch.setattr(subscribing, "LOOK_SECONDS", 3600.0)  # it does not come to say that it holds them
        monkeypatch.setattr(subscribing, "HELD", 3)
        told = await tell(bus, count=8)
        found: list[int] = []
        async with asyncio.timeout(20), subscribe(nats_process.servers, since=BEGINNING, follow=False) as events:
            async for event in events:
                found.append(event.sequence)
                if len(found) == 1:
                    consumer = (topology.EVENTS, events._name)

                    async def again(consumer: tuple[str, str] = consumer) -> bool:
                        return bool((await bus.jetstream.consumer_info(*consumer)).num_redelivered)

                    await eventually(again)
        assert found == told

    async def test_events_that_are_erased_meanwhile_are_not_waited_for(
        self, bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribing, "HELD", 1)
        told = await tell(bus, count=5)
        found: list[int] = []
        async with asyncio.timeout(20), subscribe(nats_process.servers, since=BEGINNING, follow=False) as events:
            async for event in events:
                found.append(event.sequence)
                if len(found) == 1:
                    await bus.jetstream.purge_stream(topology.EVENTS)
        assert found in (told[:1], told[:2])

    async def test_what_somebody_else_holds_under_the_same_name_is_not_waited_for_for_ever(
        self, bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribing, "ACK_WAIT_SECONDS", 0.5)
        monkeypatch.setattr(subscribing, "LOOK_SECONDS", 0.1)
        monkeypatch.setattr(subscribing, "HELD", 1)
        servers = nats_process.servers
        told = await tell(bus, count=4)
        async with subscribe(servers, durable="d", since=BEGINNING) as busy:
            reading = aiter(busy)
            assert (await anext(reading)).sequence == told[0]
            await eventually(lambda: len(busy._waiting) == 1)
            assert await read_all(subscribe(servers, durable="d", follow=False)) == told[2:]

    async def test_what_was_left_by_a_reader_before_is_read_too(
        self, bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribing, "ACK_WAIT_SECONDS", 1.0)
        servers = nats_process.servers
        told = await tell(bus, count=4)
        before = subscribe(servers, durable="d", since=BEGINNING)
        async with before:
            assert (await anext(aiter(before))).sequence == told[0]
            assert before._bus is not None
            await before._bus.close()  # it dies with all of them in its hands
        assert sorted(await read_all(subscribe(servers, durable="d", follow=False))) == told

    async def test_newer_events_leave_room_for_what_was_left_by_a_reader_before(
        self, bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscribing, "ACK_WAIT_SECONDS", 2.0)
        monkeypatch.setattr(subscribing, "HELD", 4)
        servers = nats_process.servers
        told = await tell(bus, count=4)
        before = subscribe(servers, durable="d", since=BEGINNING)
        async with before:
            assert (await anext(aiter(before))).sequence == told[0]
            await eventually(lambda: len(before._waiting) == 3)
            assert before._bus is not None
            await before._bus.close()  # it dies with all of them in its hands
        async with subscribe(servers, durable="d", follow=False) as events:
            await tell(bus, count=40)  # more than are pulled before those come again
            async with asyncio.timeout(20):
                assert sorted([event.sequence async for event in events]) == told

    async def test_newer_event_does_not_make_it_wait_where_there_was_none_for_it(
        self, bus: NatsBus, nats_process: AnyNats
    ) -> None:
        await tell(bus, count=3)
        async with subscribe(nats_process.servers, since=BEGINNING, service="rag", follow=False) as events:
            await tell(bus, service="rag", count=3)
            await eventually(lambda: events._after)
            async with asyncio.timeout(20):  # less than the wait for what somebody else holds
                assert [event.sequence async for event in events] == []


async def test_loop_ends_when_somebody_closes_its_subscription(bus: NatsBus, nats_process: AnyNats) -> None:
    events = subscribe(nats_process.servers)
    reading = asyncio.create_task(read_all(events))
    await eventually(lambda: events._puller is not None and events._watch is not None)
    await events.close()
    assert await asyncio.wait_for(reading, 10) == []


async def test_subscription_that_is_closed_says_so(bus: NatsBus, nats_process: AnyNats) -> None:
    [told] = await tell(bus)
    events = subscribe(nats_process.servers, since=BEGINNING)
    assert sequences(await take(events, 1)) == [told]
    with pytest.raises(Unreachable, match=r"is closed: subscribe anew.*请重新订阅"):
        await asyncio.wait_for(anext(aiter(events)), 5)


async def test_whoever_gives_up_while_it_opens_leaves_no_connection(
    bus: NatsBus, nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: object, **more: object) -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    monkeypatch.setattr(Consumers, "make", never)
    events = subscribe(nats_process.servers)
    opening = asyncio.create_task(read_all(events))
    await eventually(lambda: events._generation)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert events._bus is not None
    assert not events._bus.connected
