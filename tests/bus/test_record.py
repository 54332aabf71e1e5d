"""Who may change the record of a call, row by row of the table in docs/bus-protocol.md."""

from __future__ import annotations

from qingyu_ai.bus.errors import Cancelled
from qingyu_ai.bus.record import DONE, RUN, Attach, Claim, Entry, JobMessage, attach, claim, decided, running
from qingyu_ai.contract.bus_pb2 import End

DIGEST = b"d" * 16
FIRST = JobMessage(sequence=40, delivery=1, digest=DIGEST, log="g1")


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
