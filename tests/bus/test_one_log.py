"""A reader reads one log. Of a log made anew the record says whether what is said in it goes on with the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from qingyu_ai import routes
from qingyu_ai.bus import record, subjects, topology
from qingyu_ai.bus.chunks import CHAT
from qingyu_ai.bus.claiming import Claimed
from qingyu_ai.bus.dead import DeadLetters
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import BusDown, Lost
from qingyu_ai.bus.gauge import Gauge
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.job import JobRun, Station
from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.bus.reading import Reading
from qingyu_ai.bus.record import JobMessage, decided, noted, running
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.silence import Silence
from qingyu_ai.bus.speaker import Speaker
from qingyu_ai.contract.bus_pb2 import Data, End, Fence, Frame, Record
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
        await self.store(Frame(epoch=epoch, seq=seq, base=base, data=Data(chunk=[c.encode() for c in chunks])))

    async def store(self, frame: Frame) -> None:
        """Store a frame."""
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

        gauge = Gauge(self.bus, "b1", lambda: 0.0)
        gauge.generations["AI_CHAT"] = self.broker.streams["AI_CHAT"].generation
        await Silence(self.bus, FAST, self.records, gauge, apart).judge(self.reading)

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


async def test_answer_of_no_deltas_ends_who_has_heard_nothing(lab: Lab) -> None:
    """Its worker died before it said the end: there is no text that could be another one's."""
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.write(decided(one, DIGEST, End(count=0), epoch=first))
    await lab.judge()
    assert await lab.shown() == ""
    assert lab.reading.end is not None


async def test_answer_of_no_deltas_does_not_end_who_has_text_of_a_lost_log(lab: Lab) -> None:
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    assert await lab.shown() == "甲"
    await lab.lose()
    second = await lab.write(two := claimed(lab, 2, one))
    await lab.write(decided(two, DIGEST, End(count=0), epoch=second))
    await lab.judge()
    with pytest.raises(Lost):
        await lab.reading.take()


async def test_fence_of_who_begins_anew_does_not_make_the_text_its_own(lab: Lab) -> None:
    """The reader goes on in the new log, hears the fence of the next worker, and then of the record: as many deltas."""
    await lab.follow()
    first = await lab.write(one := claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    assert await lab.shown() == "甲"
    await lab.lose()
    await lab.judge()
    second = await lab.write(two := claimed(lab, 2, one))
    await lab.store(Frame(epoch=second, fence=Fence()))
    assert await lab.shown() == ""
    await lab.write(decided(two, DIGEST, End(count=1), epoch=second))
    await lab.judge()
    assert lab.reading.end is None
    await lab.say(second, 0, "乙", base=0)
    with pytest.raises(Lost):
        await lab.reading.take()


async def test_who_reads_the_log_itself_asks_which_it_was_before_it_ends_well(lab: Lab) -> None:
    """A decided call is read again. The log is lost before it is read, and its consumer has not told of that yet."""
    one = claimed(lab, 1)
    first, two = 1, claimed(lab, 2, one)
    await lab.write(two)
    done = decided(two, DIGEST, End(count=1), epoch=2)
    lab.reading.replay(done.end, lab.log)
    await lab.lose()
    await lab.say(first, 0, "错", base=0)
    assert len(await lab.reading.take()) == 1
    with pytest.raises(Lost):
        await lab.reading.take()


async def test_text_that_was_read_past_the_consumer_does_not_go_on_in_a_new_log(lab: Lab) -> None:
    """A part of it may be of the new log already."""
    lab.reading.reads(lab.log)
    first = await lab.write(claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    lab.reading.look_again()
    assert await lab.shown() == "甲"
    await lab.lose()
    lab.reading.reads(lab.log)
    await lab.judge()
    with pytest.raises(Lost):
        await lab.reading.take()


async def test_failure_that_was_reopened_ends_nobody_though_a_copy_of_the_record_still_has_it(lab: Lab) -> None:
    await lab.write(one := claimed(lab, 1))
    failed = await lab.write(decided(one, DIGEST, End(status=BusDown("x").status)))
    lab.reading = Reading(lab.bus, CALL, LOG, FAST, DIGEST, reopened=failed)
    await lab.follow()
    await lab.judge()
    assert lab.reading.end is None


async def test_job_that_is_lost_with_the_log_is_told_to_who_has_nothing(lab: Lab) -> None:
    await lab.follow()
    value = claimed(lab, 1)
    value.queue = "another"
    await lab.write(value)
    await lab.lose()
    lab.reading.queue = "AI_CHAT"
    await lab.judge()
    with pytest.raises(BusDown, match="lost the job"):
        await lab.reading.take()


def run_of(lab: Lab, claim: Claimed) -> JobRun:
    """A run that has made a claim."""
    route = routes.CHAT_STREAM
    served: Any = SimpleNamespace(route=route)
    envelope = Envelope(CALL, "r1", Deadline.after(10), digest="dd", inbox=LOG)
    delivery: Any = SimpleNamespace(sequence=1, delivery=2)
    station = Station(lab.bus, lab.records, DeadLetters(lab.bus, lab.records, FAST), "w2", FAST)
    run = JobRun(station, served, delivery, envelope, claim.record.log, "", lambda _: asyncio.sleep(0, True))
    run._claim = claim
    run.speaker = Speaker(lab.bus, LOG, claim.epoch, "w2", CHAT, FAST)
    return run


async def test_take_over_does_not_move_to_a_new_log_before_it_knows_what_was_said(lab: Lab) -> None:
    """The record would hide that the text is lost: who resumes would be given the rest of another one."""
    first = await lab.write(one := claimed(lab, 1))
    await lab.say(first, 0, "甲", base=0)
    second = await lab.write(two := claimed(lab, 2, one))
    claim = Claimed(lab.records, CALL, second, two, goes_on=True)
    run = run_of(lab, claim)
    await lab.lose()
    await run.move(lab.log)
    assert await run._give_back()
    entry = await lab.records.read(CALL)
    assert entry is not None
    assert running(JobMessage(1, 3, DIGEST, lab.log), "w3", entry.record).restarted


async def test_note_that_is_on_its_way_does_not_take_the_claim_away(lab: Lab) -> None:
    """The record has it, and its acknowledgement is not here yet."""
    first = await lab.write(one := claimed(lab, 1))
    claim = Claimed(lab.records, CALL, first, one)
    await lab.write(noted(one, first, alone=False))
    assert claim.holds(await lab.records.read(CALL))
    await lab.write(two := claimed(lab, 2, one))
    assert not claim.holds(await lab.records.read(CALL))
    await lab.write(decided(two, DIGEST, End()))
    assert not claim.holds(await lab.records.read(CALL))


def test_epoch_of_a_record_is_that_of_its_claim_whatever_was_written_since() -> None:
    value = running(JobMessage(1, 1, DIGEST, "g1"))
    assert record.epoch_of(record.Entry(7, value)) == 7
    assert record.epoch_of(record.Entry(9, noted(value, 7, alone=False))) == 7
    assert record.epoch_of(record.Entry(11, decided(noted(value, 7, log="g2"), DIGEST, End(), epoch=7))) == 7
    assert record.epoch_of(record.Entry(12, decided(value, DIGEST, End(status=b"x")))) == 0
    again = record.reopened(record.Entry(12, decided(value, DIGEST, End(status=b"x"), epoch=7)))
    assert record.epoch_of(record.Entry(13, again)) == 0
    assert record.epoch_of(record.Entry(14, running(JobMessage(2, 1, DIGEST, "g1"), "w", again))) == 14


async def test_decision_is_not_written_again_by_a_note_that_waited_for_it(lab: Lab) -> None:
    one = claimed(lab, 1)
    claim = Claimed(lab.records, CALL, await lab.write(one), one)
    await asyncio.gather(claim.decide(End()), claim.note(alone=False))
    entry = await lab.records.read(CALL)
    assert entry is not None
    assert (entry.record.state, entry.revision) == (record.DONE, claim.epoch + 1)
