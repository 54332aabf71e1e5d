"""Who may change the record of a call, row by row of the table in docs/bus-protocol.md."""

from __future__ import annotations

from qingyu_ai.bus import record
from qingyu_ai.bus.errors import BusDown, Cancelled, Expired, Internal
from qingyu_ai.bus.record import (
    DONE,
    REOPENED,
    RUN,
    Attach,
    Claim,
    Entry,
    JobMessage,
    decided,
    noted,
    reopened,
    running,
    suspect,
)
from qingyu_ai.contract.bus_pb2 import End

DIGEST = b"d" * 16
ATTEMPTS = 3
RETRIES = 2
FIRST = JobMessage(sequence=40, delivery=1, digest=DIGEST, log="g1")


def claim(entry: Entry | None, job: JobMessage) -> Claim:
    return record.claim(entry, job, ATTEMPTS)


def attach(entry: Entry | None, digest: bytes, queue: str = "") -> Attach:
    return record.attach(entry, digest, RETRIES, queue)


def run_entry(job: JobMessage = FIRST) -> Entry:
    return Entry(7, running(job))


def test_absent_record_is_created() -> None:
    assert claim(None, FIRST) is Claim.CREATE
    value = running(FIRST)
    assert (value.state, value.job_seq, value.delivery, value.digest, value.log) == (RUN, 40, 1, DIGEST, "g1")


def test_later_delivery_of_the_same_message_takes_over() -> None:
    assert claim(run_entry(), JobMessage(40, 2, DIGEST)) is Claim.TAKE_OVER


def test_same_or_earlier_delivery_is_stale() -> None:
    held = run_entry(JobMessage(40, 2, DIGEST))
    assert claim(held, JobMessage(40, 2, DIGEST)) is Claim.STALE
    assert claim(held, JobMessage(40, 1, DIGEST)) is Claim.STALE


def test_another_message_of_a_running_call_is_dropped() -> None:
    assert claim(run_entry(), JobMessage(41, 1, DIGEST)) is Claim.DROP
    assert claim(run_entry(), JobMessage(39, 5, DIGEST)) is Claim.DROP


def test_decided_call_is_finished_by_whoever_finds_it() -> None:
    done = Entry(9, decided(running(FIRST), DIGEST, End(count=3)))
    assert claim(done, FIRST) is Claim.FINISH
    assert claim(done, JobMessage(41, 1, DIGEST)) is Claim.FINISH


def test_decided_record_keeps_what_the_claim_wrote_and_what_is_left_to_do() -> None:
    value = decided(running(FIRST), DIGEST, End(count=3, answer=b"a"), b"left")
    assert (value.state, value.job_seq, value.delivery, value.log) == (DONE, 40, 1, "g1")
    assert (value.end.count, value.end.answer, value.follow_up) == (3, b"a", b"left")


def test_bridge_may_decide_a_call_that_nobody_has_claimed() -> None:
    value = decided(None, DIGEST, End(status=Cancelled().status))
    assert value.state == DONE
    assert claim(Entry(1, value), FIRST) is Claim.FINISH


def test_request_with_a_known_id_joins_its_call() -> None:
    assert attach(None, DIGEST) is Attach.STORE
    assert attach(run_entry(), DIGEST) is Attach.FOLLOW
    assert attach(Entry(9, decided(running(FIRST), DIGEST, End())), DIGEST) is Attach.ANSWER


def test_known_id_with_another_body_is_refused_running_or_decided() -> None:
    assert attach(run_entry(), b"other") is Attach.REFUSE
    assert attach(Entry(9, decided(running(FIRST), DIGEST, End())), b"other") is Attach.REFUSE


def lost(times: int, *, give_back: bool = False, alone: bool = True) -> Entry:
    """The record of a job over which so many workers were lost, one after the other."""
    value = running(FIRST, "w1")
    for delivery in range(2, times + 1):
        before = noted(value, 7, given_back=True) if give_back else value
        value = running(JobMessage(40, delivery, DIGEST, "g1"), f"w{delivery}", before, alone=alone and delivery > 2)
    return Entry(7, value)


def test_job_is_put_aside_after_so_many_lost_workers() -> None:
    assert claim(lost(2), JobMessage(40, 9, DIGEST)) is Claim.TAKE_OVER
    assert claim(lost(3), JobMessage(40, 9, DIGEST)) is Claim.BURY
    assert [c.worker for c in lost(3).record.claims] == ["w1", "w2", "w3"]


def test_job_that_was_never_alone_is_suspected_and_never_put_aside() -> None:
    """Whoever runs beside a poison job loses as many workers as it does."""
    held = lost(20, alone=False)
    assert suspect(held.record)
    assert claim(held, JobMessage(40, 99, DIGEST)) is Claim.TAKE_OVER


def test_worker_that_gives_a_job_back_is_not_lost_over_it() -> None:
    assert claim(lost(9, give_back=True), JobMessage(40, 99, DIGEST)) is Claim.TAKE_OVER


def test_job_runs_alone_from_the_second_lost_worker_on() -> None:
    assert not suspect(lost(1).record)
    assert suspect(lost(2).record)


def test_message_of_another_queue_takes_over_whatever_its_numbers() -> None:
    """The queue was lost with its server and made anew: the message that was claimed can never come again."""
    held = Entry(7, running(JobMessage(40, 2, DIGEST, "g1", "q1")))
    assert claim(held, JobMessage(1, 1, DIGEST, "g1", "q2")) is Claim.TAKE_OVER
    assert attach(held, DIGEST, "q2") is Attach.STORE
    assert attach(held, DIGEST, "q1") is Attach.FOLLOW
    assert attach(held, DIGEST) is Attach.FOLLOW


def failed(status: bytes, entry: Entry | None = None) -> Entry:
    before = entry.record if entry else running(FIRST)
    return Entry((entry.revision if entry else 7) + 1, decided(before, DIGEST, End(status=status, count=3), b"left"))


def test_failure_that_waiting_can_mend_is_reopened_so_often_and_no_more() -> None:
    entry = failed(BusDown("x").status)
    for _ in range(RETRIES):
        assert attach(entry, DIGEST) is Attach.REOPEN
        entry = failed(BusDown("x").status, Entry(entry.revision + 1, reopened(entry)))
    assert attach(entry, DIGEST) is Attach.ANSWER


def test_deadline_may_be_tried_again_and_what_is_final_may_not() -> None:
    assert attach(failed(Expired().status), DIGEST) is Attach.REOPEN
    assert attach(failed(Cancelled().status), DIGEST) is Attach.ANSWER
    assert attach(failed(Internal("1").status), DIGEST) is Attach.ANSWER
    assert attach(failed(b""), DIGEST) is Attach.ANSWER
    assert attach(failed(BusDown("x").status), b"other") is Attach.REFUSE


def test_reopened_call_is_claimed_by_the_message_that_reopens_it_and_no_other() -> None:
    entry = failed(BusDown("x").status)
    again = Entry(entry.revision + 1, reopened(entry))
    assert (again.record.state, again.record.reopened) == (REOPENED, entry.revision)
    assert not again.record.HasField("end")
    assert not again.record.follow_up
    assert attach(again, DIGEST) is Attach.STORE
    assert claim(again, JobMessage(40, 2, DIGEST)) is Claim.DROP
    message = JobMessage(41, 1, DIGEST, reopens=entry.revision)
    assert claim(again, message) is Claim.CREATE
    value = running(message, "w", again.record)
    assert (value.reopened, value.reopenings, value.deaths) == (entry.revision, 1, 0)


def test_claim_in_another_log_is_marked_for_those_who_have_text_of_the_log_before() -> None:
    assert not running(JobMessage(40, 2, DIGEST, "g1"), "w", running(FIRST)).restarted
    other = running(JobMessage(40, 2, DIGEST, "g2"), "w", running(FIRST))
    assert other.restarted
    assert running(JobMessage(40, 3, DIGEST, "g2"), "w", other).restarted
