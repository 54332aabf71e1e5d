"""A trace context is read as W3C Trace Context says, and one that does not hold is none."""

from __future__ import annotations

import pytest

from qingyu_ai.tracing.context import NOWHERE, Context, context_of, parent_of, state_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("given", [GIVEN, f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-03"])
def test_traceparent_is_taken_as_it_is(given: str) -> None:
    assert parent_of(given) == given


@pytest.mark.parametrize(
    ("given", "flags"), [("-01", "01"), ("-00", "00"), ("-ff", "01"), ("-02", "00"), ("-01-what-00-has-not", "01")]
)
def test_later_version_is_read_as_far_as_ours_goes(given: str, flags: str) -> None:
    assert parent_of(f"cc-{TRACE}-{SPAN}{given}") == f"00-{TRACE}-{SPAN}-{flags}"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00",
        GIVEN.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GIVEN}-more",
        f"{GIVEN}\n",
        f" {GIVEN}",
        f"{GIVEN}, {GIVEN}",
        f"cc-{TRACE}-{SPAN}-01more",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-1]}４-{SPAN}-01",
    ],
)
def test_traceparent_that_does_not_hold_is_none(given: str) -> None:
    assert parent_of(given) == ""
    assert context_of([given], ["a=b"]) == NOWHERE


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["a=1,b=2"], "a=1,b=2"),
        (["a=1", " b=2 ,,", "\tfw529a3039@dt=x y"], "a=1,b=2,fw529a3039@dt=x y"),
        ([], ""),
        ([",".join(f"k{i}=v" for i in range(32))], ",".join(f"k{i}=v" for i in range(32))),
        ([f"a={'x' * 256}"], f"a={'x' * 256}"),
    ],
)
def test_tracestate_is_passed_on_as_it_came(given: list[str], read: str) -> None:
    assert state_of(given) == read
    assert context_of([GIVEN], given) == Context(GIVEN, read)


@pytest.mark.parametrize(
    "given",
    [
        "a",
        "a=",
        "=b",
        "A=b",
        "a=b=c",
        "a=b\r\nx: y",
        "a=灯",
        "a@b@c=1",
        "a=1,a=2",
        f"a={'x' * 257}",
        ",".join(f"k{i}=v" for i in range(33)),
        ",".join(f"k{i}={'v' * 60}" for i in range(10)),
    ],
)
def test_tracestate_that_does_not_hold_is_left_out_and_the_trace_goes_on(given: str) -> None:
    assert context_of([GIVEN], [given]) == Context(GIVEN, "")


def test_two_traceparents_are_none() -> None:
    assert context_of([GIVEN, GIVEN]) == NOWHERE
    assert context_of([]) == NOWHERE
