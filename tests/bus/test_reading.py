"""A reader shows each delta once and in order, in a bounded room, or says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qingyu_ai.bus import subjects
from qingyu_ai.bus.errors import Lost
from qingyu_ai.bus.gauge import log_has_room
from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.bus.reading import Reading
from qingyu_ai.bus.transport import Stored, Usage
from qingyu_ai.bus.transport_errors import ReplyTimeout
from qingyu_ai.contract.bus_pb2 import Beat, Data, End, Frame
from tests.bus.conftest import FAST

CALL = "a" * 32
LOG = subjects.log("chat", "b1", CALL)


def data(seq: int, *chunks: str, epoch: int = 5) -> Frame:
    base = 0 if not seq else None
    return Frame(
        epoch=epoch, seq=seq, base=base, worker="w1" if not seq else "", data=Data(chunk=[c.encode() for c in chunks])
    )


def end(count: int, epoch: int = 5) -> Frame:
    return Frame(epoch=epoch, seq=count, base=None if count else 0, end=End(count=count))


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus(Broker(FAST))
    yield bus
    await bus.close()


async def stored(bus: MemoryBus, *frames: Frame) -> list[tuple[int, bytes]]:
    """Put frames into the log."""
    return [(await bus.store(LOG, f.SerializeToString(), timeout=1), f.SerializeToString()) for f in frames]


async def rest(reading: Reading) -> str:
    text = ""
    while taken := await reading.take():
        text += "".join(chunk.decode() for chunk, _ in taken)
    return text


async def test_frames_become_text_and_an_end(bus: MemoryBus) -> None:
    reading = Reading(bus, CALL, LOG, FAST)
    for sequence, frame in await stored(bus, data(0, "红"), data(1, "楼", "梦"), Frame(epoch=5, beat=Beat()), end(3)):
        reading.on_frame(sequence, frame)
    assert await rest(reading) == "红楼梦"
    assert reading.end is not None
    assert reading.worker == "w1"


async def test_hole_in_what_was_delivered_is_mended_from_the_log(bus: MemoryBus) -> None:
    reading = Reading(bus, CALL, LOG, FAST)
    frames = await stored(bus, data(0, "一"), data(1, "二"), data(2, "三"), data(3, "四"), end(4))
    for i in (0, 3, 4):
        reading.on_frame(*frames[i])
    assert await rest(reading) == "一二三四"


async def test_hole_in_the_log_itself_is_a_loss_and_what_was_right_is_shown(bus: MemoryBus) -> None:
    reading = Reading(bus, CALL, LOG, FAST)
    for frame in await stored(bus, data(0, "一"), data(2, "三"), end(3)):
        reading.on_frame(*frame)
    assert [c for c, _ in await reading.take()] == ["一".encode()]
    with pytest.raises(Lost):
        await rest(reading)


async def test_end_that_was_not_delivered_is_found_in_the_log(bus: MemoryBus) -> None:
    reading = Reading(bus, CALL, LOG, FAST)
    frames = await stored(bus, data(0, "一"), end(1))
    reading.on_frame(*frames[0])
    assert await reading.take()
    reading.look_again()
    assert await rest(reading) == ""
    assert reading.end is not None


async def test_reader_that_is_slow_holds_a_window_and_reads_the_rest_from_the_log(bus: MemoryBus) -> None:
    settings = FAST.model_copy(update={"window_frames": 4})
    reading = Reading(bus, CALL, LOG, settings)
    text = "".join(chr(0x4E00 + i) for i in range(60))
    for frame in await stored(bus, *(data(i, c) for i, c in enumerate(text)), end(60)):
        reading.on_frame(*frame)
        assert len(reading._held) <= 4
    assert await rest(reading) == text


async def test_reader_that_is_slow_outlasts_a_vote_of_the_log(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FAST.model_copy(update={"window_frames": 2})
    reading = Reading(bus, CALL, LOG, settings)
    for frame in await stored(bus, *(data(i, c) for i, c in enumerate("天地玄黄")), end(4)):
        reading.on_frame(*frame)
    read, votes = bus.next, [True, True]

    async def voting(stream: str, subject: str, sequence: int, *, timeout: float) -> Stored | None:
        if votes:
            votes.pop()
            raise ReplyTimeout("a vote")
        return await read(stream, subject, sequence, timeout=timeout)

    monkeypatch.setattr(bus, "next", voting)
    assert await rest(reading) == "天地玄黄"
    assert votes == []


async def test_frames_that_arrive_while_the_reader_catches_up_are_not_lost_or_doubled(bus: MemoryBus) -> None:
    settings = FAST.model_copy(update={"window_frames": 2})
    reading = Reading(bus, CALL, LOG, settings)
    text = "天地玄黄宇宙洪荒日月盈昃辰宿列张"

    async def say() -> None:
        for i, character in enumerate(text):
            for frame in await stored(bus, data(i, character)):
                reading.on_frame(*frame)
        for frame in await stored(bus, end(len(text))):
            reading.on_frame(*frame)

    _, read = await asyncio.gather(say(), rest(reading))
    assert read == text


async def test_log_that_no_longer_holds_what_is_needed_is_a_loss(bus: MemoryBus) -> None:
    settings = FAST.model_copy(update={"window_frames": 2})
    reading = Reading(bus, CALL, LOG, settings)
    for frame in await stored(bus, *(data(i, "字") for i in range(6))):
        reading.on_frame(*frame)
    bus._broker.lose("AI_LOG")
    with pytest.raises(Lost):
        await rest(reading)


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 4), max_size=12), st.integers(1, 6), st.data())
def test_any_order_of_losses_and_window_shows_the_text_or_fails(
    sizes: list[int], window: int, choose: st.DataObject
) -> None:
    """Whatever the consumer fails to deliver, the reader shows a prefix, and ends well only with everything."""
    total = sum(sizes)
    dropped = choose.draw(st.sets(st.integers(0, len(sizes)), max_size=3))

    async def run() -> None:
        bus = MemoryBus(Broker(FAST))
        reading = Reading(bus, CALL, LOG, FAST.model_copy(update={"window_frames": window}))
        frames, seq = [], 0
        for size in sizes:
            frames.append(data(seq, *(f"[{i}]" for i in range(seq, seq + size))))
            seq += size
        frames.append(end(total))
        delivered = await stored(bus, *frames)
        for i, frame in enumerate(delivered):
            if i not in dropped:
                reading.on_frame(*frame)
        if len(sizes) in dropped:
            reading.look_again()
        assert await rest(reading) == "".join(f"[{i}]" for i in range(total))
        await bus.close()

    asyncio.run(run())


def test_full_log_takes_a_new_call_only_while_the_oldest_message_is_not_an_open_calls() -> None:
    now = 1000.0
    almost = Usage(bytes=80, max_bytes=100, oldest_unix=now - 1)
    full_of_old = Usage(bytes=95, max_bytes=100, oldest_unix=now - 600)
    full_of_new = Usage(bytes=95, max_bytes=100, oldest_unix=now - 20)
    assert log_has_room(almost, now - 500, now)
    assert log_has_room(full_of_old, now - 30, now)
    assert not log_has_room(full_of_new, now - 30, now)
    assert log_has_room(full_of_new, now, now)
