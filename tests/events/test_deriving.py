"""The events that follow from a record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from qingyu_ai.bus import record
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import BusDown, Cancelled, Expired, Fault, GaveUp, Internal
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.observing import Decided, Observed
from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract import events_pb2 as events
from qingyu_ai.events import kinds
from qingyu_ai.events.deriving import of_asked, of_decision, usage
from qingyu_ai.events.kinds import KINDS, Kind

CALL = "0" * 31 + "7"
COST = {
    "x-model": "deepseek",
    "x-usage-prompt": "12",
    "x-usage-completion": "30",
    "x-usage-reasoning": "9",
    "x-usage-estimated": "false",
    "x-finish-reason": "stop",
}


def decided(
    fault: Fault | None = None,
    *,
    method: str = "ChatStream",
    kind: str = "chat",
    trailers: Mapping[str, str] = COST,
    revision: int = 9,
) -> Decided:
    """A call that two workers had, the second of which decided it."""
    end = bus_pb2.End(status=fault.status if fault else b"", count=3, trailers=trailers)
    held = bus_pb2.Record(state=record.DONE, at_ms=5000, epoch=8, end=end, deaths=1)
    held.claims.add(worker="a", at_ms=1000)
    held.claims.add(worker="b", at_ms=4000)
    envelope = Envelope(CALL, "req_1", Deadline.after(1), user="张三", project="p1", traceparent="00-ab-cd-01")
    return Decided(Observed(kind, method, "", envelope, 0), revision, held)


def test_completed_call_tells_whose_it_was_and_what_it_cost() -> None:
    [told] = of_decision(decided())
    assert (told.kind, told.id, told.at_ms) == (kinds.COMPLETED, f"{CALL}.9", 5000)
    assert told.message == events.CallCompleted(
        at_unix_ms=5000,
        call=events.Call(
            id=CALL,
            epoch=8,
            traceparent="00-ab-cd-01",
            user="张三",
            project="p1",
            service="chat",
            method="ChatStream",
            request_id="req_1",
        ),
        usage=events.Usage(model="deepseek", prompt_tokens=12, completion_tokens=30, reasoning_tokens=9),
        duration_ms=4000,
        finish_reason="stop",
        attempts=2,
    )


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (BusDown("x"), kinds.FAILED, "BUS_UNAVAILABLE"),
        (Expired(), kinds.FAILED, "DEADLINE_EXCEEDED"),
        (GaveUp(5), kinds.DEAD_LETTERED, "DEAD_LETTER"),
        (Internal("ab12"), kinds.DEAD_LETTERED, "INTERNAL"),
    ],
)
def test_failed_call_has_one_event_of_its_kind(fault: Fault, kind: Kind, reason: str) -> None:
    [told] = of_decision(decided(fault))
    assert (told.kind, told.id) == (kind, f"{CALL}.9")
    assert isinstance(told.message, events.CallFailed | events.CallDeadLettered)
    assert (told.message.failure.code, told.message.failure.reason) == (int(fault.code), reason)
    assert told.message.failure.message == fault.message
    assert told.message.usage.completion_tokens == 30  # a failed call has cost what it has cost


def test_cancelled_call_is_no_failure() -> None:
    [told] = of_decision(decided(Cancelled(), trailers={}))
    assert told.kind is kinds.CANCELLED
    assert isinstance(told.message, events.CallCancelled)
    assert not told.message.HasField("usage")


def test_call_that_no_worker_had_has_taken_no_time() -> None:
    never = decided(Expired())
    del never.record.claims[:]
    [told] = of_decision(never)
    assert isinstance(told.message, events.CallFailed)
    assert (told.message.duration_ms, told.message.attempts) == (0, 0)


def test_decisions_that_were_reopened_are_told_as_they_were_under_their_own_ids() -> None:
    failed = decided(BusDown("x"), revision=9)
    [first] = of_decision(failed)
    again = record.reopened(record.Entry(9, failed.record))
    running = record.running(record.JobMessage(2, 1, b"", reopens=9), "c", again)
    done = record.decided(running, b"", bus_pb2.End(trailers=COST), epoch=12)
    told = list(of_decision(Decided(failed.call, 14, done)))
    assert told[0] == first
    assert [(one.kind, one.id) for one in told] == [(kinds.FAILED, f"{CALL}.9"), (kinds.COMPLETED, f"{CALL}.14")]


def test_call_of_a_row_that_stores_nothing_has_an_id_for_each_way_that_it_ended() -> None:
    """A subscriber that remembers ids must not take the answer for the failure before it, told once more."""
    call = decided().call
    ids = [of_asked(call, 0.1, fault, 5).id for fault in (BusDown("x"), None, Cancelled(), BusDown("x"), None)]
    assert ids == [f"{CALL}.{name}" for name in ("failed", "completed", "cancelled", "failed", "completed")]


def test_record_keeps_no_more_reopened_decisions_than_it_may() -> None:
    held = decided(BusDown("x")).record
    for revision in range(20):
        held = record.reopened(record.Entry(revision, held))
        held.state = record.DONE
        held.end.status = BusDown("x").status
    assert [one.revision for one in held.earlier] == list(range(12, 20))


@pytest.mark.parametrize("value", ["", "-1", "many", "9" * 30, "1.5", "٣x"])
def test_count_that_is_none_counts_for_nothing(value: str) -> None:
    counted = usage({"x-usage-prompt": value, "x-usage-completion": "2"})
    assert counted is not None
    assert (counted.prompt_tokens, counted.completion_tokens) == (0, 2)
    assert counted.estimated  # nobody says that a server counted


def test_every_message_has_time_and_call_or_worker_under_the_same_numbers() -> None:
    for kind in KINDS:
        fields = kind.message.DESCRIPTOR.fields_by_number
        assert fields[1].name == "at_unix_ms"
        assert fields[2].name in ("call", "worker")
        part = fields[2].message_type
        assert part is not None
        assert part.name.lower() == fields[2].name


def test_table_has_every_message_of_the_contract_that_is_an_event() -> None:
    parts = {"Call", "Usage", "Failure", "Submission", "Worker"}
    assert {kind.message.DESCRIPTOR.name for kind in KINDS} == set(events.DESCRIPTOR.message_types_by_name) - parts
