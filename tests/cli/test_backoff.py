from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.cli.backoff import Backoff


def test_the_wait_doubles_from_half_a_second_to_fifteen() -> None:
    backoff = Backoff()
    assert [backoff.died(alive_seconds=0.1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]


def test_a_process_that_lived_for_thirty_seconds_starts_over() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.died(alive_seconds=29.9)
    assert backoff.died(alive_seconds=30.0) == 0.5
    assert backoff.deaths == 1


@given(st.lists(st.floats(min_value=0, max_value=29), min_size=1, max_size=2000))
def test_the_wait_never_shrinks_and_never_exceeds_the_longest_while_it_keeps_dying(lives: list[float]) -> None:
    backoff = Backoff()
    waits = [backoff.died(alive) for alive in lives]
    assert waits == sorted(waits)
    assert waits[-1] <= backoff.longest_seconds
    assert backoff.deaths == len(lives)
