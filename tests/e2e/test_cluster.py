"""Servers of a cluster that die or leave under load, as callers see it: nothing is lost, and the stall is printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qingyu_ai.bus import topology
from tests.e2e.callers import say
from tests.e2e.cluster_doses import Toll, a_system, kill_leaders, lame_ducks, never_accepted
from tests.running import System

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("cluster")]

STALL_SECONDS = 20.0
"""Two votes of nine seconds, and what surrounds them."""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with a_system() as system:
        yield system


def nothing_is_lost(system: System, toll: Toll) -> None:
    """Every call that was accepted is whole, no stream broke, and nobody waited for longer than votes take."""
    say(str(toll))
    assert not toll.broken
    assert len(toll.failed) == len(never_accepted(system, toll)), toll.failed
    assert max(toll.longest_silence, *toll.took) < STALL_SECONDS


@pytest.mark.parametrize("stream", [topology.LOG, "AI_CHAT", topology.CALLS], ids=["log", "queue", "records"])
def test_calls_are_whole_when_the_server_that_leads_their_stream_is_killed(system: System, stream: str) -> None:
    [toll] = kill_leaders(system, stream)
    nothing_is_lost(system, toll)


def test_no_call_fails_when_a_server_leaves_in_good_order(system: System) -> None:
    [toll] = lame_ducks(system)
    nothing_is_lost(system, toll)
    assert not toll.failed
