"""The breaker's states, on a clock of the test's own."""

from __future__ import annotations

import pytest

from services.proxy.breaker import Breaker, Permit, State
from services.proxy.errors import CIRCUIT_OPEN, AIProxyError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(3, 30.0, clock)


def at(breaker: Breaker) -> State:
    return breaker.state


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.permit().settle(failed=True)


def refused(breaker: Breaker) -> AIProxyError:
    with pytest.raises(AIProxyError) as error:
        breaker.permit()
    assert error.value.kind is CIRCUIT_OPEN
    return error.value


def test_it_opens_after_failures_in_a_row_and_says_when_to_come_back(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 2)
    assert at(breaker) is State.CLOSED
    fail(breaker)
    assert at(breaker) is State.OPEN
    clock.now += 10
    error = refused(breaker)
    assert (error.http_status, error.message, error.retry_seconds) == (503, "AI服务暂时不可用，请稍后再试", 20.0)


def test_a_success_between_failures_lets_the_count_begin_anew(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.permit().settle(failed=False)
    fail(breaker, 2)
    assert at(breaker) is State.CLOSED


def test_half_open_lets_exactly_one_probe_through(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert at(breaker) is State.HALF_OPEN
    probe = breaker.permit()
    for _ in range(3):
        refused(breaker)
    probe.settle(failed=False)
    assert at(breaker) is State.CLOSED
    breaker.permit()


def test_a_probe_that_fails_opens_it_for_another_rest(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    fail(breaker)
    assert at(breaker) is State.OPEN
    assert refused(breaker).retry_seconds == 30.0


def test_a_probe_that_is_cancelled_counts_as_nothing_and_lets_the_next_one_through(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += 30
    breaker.permit().settle(failed=None)
    assert at(breaker) is State.HALF_OPEN
    breaker.permit().settle(failed=False)
    assert at(breaker) is State.CLOSED


def test_a_cancelled_call_counts_neither_way(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.permit().settle(failed=None)
    assert breaker.failures == 2


def test_a_permit_counts_once(breaker: Breaker) -> None:
    permit = breaker.permit()
    permit.settle(failed=False)
    for _ in range(5):
        permit.settle(failed=True)
    assert breaker.failures == 0


@pytest.mark.parametrize("failed", [True, False])
def test_a_result_from_before_it_opened_says_nothing_about_the_probe(
    breaker: Breaker, clock: Clock, failed: bool
) -> None:
    late: Permit = breaker.permit()
    fail(breaker, 3)
    clock.now += 30
    breaker.permit()
    late.settle(failed=failed)
    assert at(breaker) is State.HALF_OPEN
    refused(breaker)
