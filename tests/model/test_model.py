"""Every order of steps within small bounds; and each rule, switched off, is missed. `make model` goes further."""

from __future__ import annotations

import functools

import pytest

from tests.model import stories
from tests.model.bounds import Scene
from tests.model.configurations import MISSED, SLOW, SMALL, without
from tests.model.explorer import Result, explore
from tests.model.rules import NAMES, Rules

STORIES = stories.read()


@functools.cache
def explored(name: str) -> Result:
    return explore(Scene(SMALL[name]))


@pytest.mark.parametrize("name", SMALL)
def test_protocol_keeps_its_invariants(name: str) -> None:
    result = explored(name)
    assert result.violation is None, f"\n{result.violation}"
    assert result.complete


@pytest.mark.parametrize("rule", NAMES)
def test_rule_is_missed(rule: str) -> None:
    scene = Scene(MISSED[rule], without(rule))
    if rule in SLOW:
        assert stories.follow(scene, STORIES[rule])
    else:
        assert explore(scene).violation is not None


@pytest.mark.parametrize("rule", SLOW)
def test_story_does_not_end_so_with_the_rule(rule: str) -> None:
    assert not stories.follow(Scene(MISSED[rule]), STORIES[rule])


@pytest.mark.parametrize("rule", ["fence-then-fold", "reopening-voids-the-failure"])
def test_same_bounds_hold_with_the_rule(rule: str) -> None:
    assert explore(Scene(MISSED[rule])).violation is None


def test_counterexample_is_told_step_by_step() -> None:
    found = explore(Scene(MISSED["fence-then-fold"], Rules().without("fence-then-fold"))).violation
    assert found is not None
    told = str(found)
    assert "worker 1.2 folds 0 frames and goes on at 0" in told
    assert told.index("folds 0 frames") < told.index("stores data 0 of epoch 1") < told.index("stores fence of epoch 2")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("a worker pauses", "OK; text of 2 claims"),
        ("two requests", "OK OK; text of 1 claims"),
        ("a failure is reopened", "UNAVAILABLE OK; text of 1 claims, reopened"),
        ("a deadline is reopened", "DEADLINE_EXCEEDED OK; text of 1 claims, reopened"),
        ("a caller resumes", "GONE OK; text of 1 claims"),
        ("the log is lost, a worker dies", "DATA_LOSS; text of 1 claims"),
        ("a job that ends its workers", "INTERNAL; text of 0 claims"),
        ("a job comes back to its worker", "OK; text of 1 claims"),
        ("a job is refused, another request waits", "UNAVAILABLE UNAVAILABLE; text of 0 claims"),
        ("the log does not answer", "UNAVAILABLE OK; text of 1 claims, reopened"),
    ],
)
def test_exploration_reaches_what_it_is_for(name: str, end: str) -> None:
    """An invariant about what never happens would hold as well."""
    assert explored(name).ends[end]
