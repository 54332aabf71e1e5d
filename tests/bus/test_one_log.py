"""A reader reads one log. Of a log made anew the record says whether what is said in it goes on with the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qingyu_ai.bus import record, subjects, topology
from qingyu_ai.bus.errors import BusDown, Lost
from qingyu_ai.bus.gauge import Gauge
from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.bus.reading import Reading
from qingyu_ai.bus.record import JobMessage, decided, noted, running
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.silence import Silence
from qingyu_ai.contract.bus_pb2 import Data, End, Frame, Record
from tests.bus.conftest import FAST

CALL, DIGEST = "a" * 32, b"d"
LOG = subjects.log("chat", "b1", CALL)


class Lab:
    """A reader of one call, the log that it reads, and the record of the call."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.bus = MemoryBus(broker)
        self.records = Records(self.bus, FAST)
        self.revision = 0
        self.reading = Reading(self.bus, CALL, LOG, FAST, DIGEST)

    @property
    def log(self) -> str:
        """Which log there is."""
        return self.broker.streams[topology.LOG].generation

    async def follow(self) -> None:
        """Have the reader follow the log."""
        await self.bus.follow(
            topology.LOG, LOG, lambda _, n, data: self.reading.on_frame(n, data), self.reading.reads, from_start=True
        )

    async def say(self, epoch: int, seq: int, *chunks: str, base: int | None = None) -> None:
        """Store a frame of a worker."""
        frame = Frame(epoch=epoch, seq=seq, base=base, data=Data(chunk=[c.encode() for c in chunks]))
        await self.bus.store(LOG, frame.SerializeToString(), timeout=1)
        await asyncio.sleep(0.01)

    async def write(self, value: Record) -> int:
        """Write the record."""
        self.revision = await self.records.write(CALL, value, self.revision)
        return self.revision

    async def lose(self) -> None:
        """Lose the log."""
        self.broker.lose(topology.LOG)
        await asyncio.sleep(0.01)

    async def judge(self) -> None:
        """As the clock has it done for a reader that is silent or astray."""

        async def apart(reading: Reading) -> None:
            raise AssertionError("it reads the right log")

        await Silence(self.bus, FAST, self.records, Gauge(self.bus, "b1", lambda: 0.0), apart).judge(self.reading)

    async def shown(self) -> str:
        """What the reader has for its caller by now."""
        text = ""
        try:
            async with asyncio.timeout(0.1):
                while chunks := await self.reading.take():
                    text += b"".join([chunk for chunk, _ in chunks]).decode()
        except TimeoutError:
            pass
        return text


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    broker = Broker(FAST)
    yield Lab(broker)
    broker.close()


def claimed(lab: Lab, delivery: int, before: Record | None = None) -> Record:
    return running(JobMessage(1, delivery, DIGEST, lab.log), f"w{delivery}", before)


async def test_word_of_a_replaced_worker_in_a_new_log_is_shown_to_nobody(lab: Lab) -> None:
    """Its fence is gone with the old log. The count of the call's end is that of the wrong text, too."""
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    second = await lab.write(two := claimed(lab, 2, one))
    assert await lab.shown() == "甲"
    await lab.lose()
    await lab.say(first, 1, "错")
    assert await lab.shown() == ""
    await lab.write(decided(two, DIGEST, End(count=2), epoch=second))
    await lab.judge()
    with pytest.raises(Lost):
        await lab.reading.take()


async def test_worker_that_was_not_replaced_goes_on_in_the_new_log(lab: Lab) -> None:
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    assert await lab.shown() == "甲"
    await lab.lose()
    await lab.say(first, 1, "乙")
    await lab.judge()
    assert await lab.shown() == "乙"
    await lab.say(first, 2, "丙")
    assert await lab.shown() == "丙"
    await lab.write(decided(one, DIGEST, End(count=3), epoch=first))
    await lab.judge()
    assert await lab.shown() == ""
    assert lab.reading.end is not None


async def test_who_has_nothing_waits_for_a_claim_in_the_new_log(lab: Lab) -> None:
    """What a replaced worker says there before is not it."""
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.lose()
    await lab.say(first, 0, "错", base=0)
    await lab.judge()
    assert await lab.shown() == ""
    second = await lab.write(claimed(lab, 2, one))
    await lab.bus.drop(topology.LOG, LOG, timeout=1)  # as if it had never got there
    await lab.say(second, 0, "对", base=0)
    await lab.judge()
    assert await lab.shown() == "对"


async def test_who_has_nothing_goes_on_when_a_worker_says_that_all_of_it_is_there(lab: Lab) -> None:
    """It had said nothing before the log was lost (`JobRun.move`)."""
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.lose()
    await lab.say(first, 0, "甲", base=0)
    await lab.judge()
    assert await lab.shown() == ""
    await lab.write(noted(one, first, log=lab.log))
    await lab.judge()
    assert await lab.shown() == "甲"


async def test_who_has_nothing_and_joins_late_does_not_take_the_rest_for_the_whole(lab: Lab) -> None:
    first = await lab.write(one := claimed(lab, 1))
    old = lab.log
    await lab.lose()
    await lab.say(first, 1, "乙", base=1)
    lab.reading.expect(old)
    await lab.follow()
    await asyncio.sleep(0.01)
    assert await lab.shown() == ""
    await lab.write(decided(one, DIGEST, End(count=2), epoch=first))
    await lab.judge()
    with pytest.raises(Lost):
        await lab.reading.take()


async def test_call_that_nobody_has_claimed_is_read_in_the_new_log(lab: Lab) -> None:
    await lab.follow()
    await lab.lose()
    await lab.judge()
    first = await lab.write(claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    assert await lab.shown() == "甲"


async def test_failure_ends_a_reader_that_is_astray(lab: Lab) -> None:
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    assert await lab.shown() == "甲"
    await lab.write(two := claimed(lab, 2, one))
    await lab.lose()
    await lab.write(decided(two, DIGEST, End(status=BusDown("x").status, count=3)))
    await lab.judge()
    assert await lab.shown() == ""
    assert lab.reading.end is not None
    assert lab.reading.end.status


def test_epoch_of_a_record_is_that_of_its_claim_whatever_was_written_since() -> None:
    value = running(JobMessage(1, 1, DIGEST, "g1"))
    assert record.epoch_of(record.Entry(7, value)) == 7
    assert record.epoch_of(record.Entry(9, noted(value, 7, alone=False))) == 7
    assert record.epoch_of(record.Entry(11, decided(noted(value, 7, log="g2"), DIGEST, End(), epoch=7))) == 7
    assert record.epoch_of(record.Entry(12, decided(value, DIGEST, End(status=b"x")))) == 0
    again = record.reopened(record.Entry(12, decided(value, DIGEST, End(status=b"x"), epoch=7)))
    assert record.epoch_of(record.Entry(13, again)) == 0
    assert record.epoch_of(record.Entry(14, running(JobMessage(2, 1, DIGEST, "g1"), "w", again))) == 14
