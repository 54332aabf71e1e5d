from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm import sse
from services.llm.sse import EventReader, EventTooLarge

EVENTS = ["你好", "林黛玉，😀", "[DONE]", '{"a": "b"}', "a\nb"]
ENDINGS = ["\n", "\r\n", "\r"]


def body(events: list[str], ending: str, *, space: bool, comments: bool) -> bytes:
    lines = []
    for event in events:
        if comments:
            lines += [": ping", "event: message", "id: 1", ""]
        lines += [f"data:{' ' if space else ''}{line}" for line in event.split("\n")]
        lines.append("")
    return (ending.join(lines) + ending).encode()


@given(
    st.lists(st.sampled_from(EVENTS), max_size=6),
    st.sampled_from(ENDINGS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 300)),
)
def test_events_are_the_same_wherever_the_bytes_are_split(
    events: list[str], ending: str, space: bool, comments: bool, bom: bool, cuts: list[int]
) -> None:
    data = (b"\xef\xbb\xbf" if bom else b"") + body(events, ending, space=space, comments=comments)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = EventReader()
    read = []
    for start, end in pairwise(places):
        read += reader.feed(data[start:end])
    read += reader.close()
    assert [event.decode() for event in read] == events


def test_event_comes_as_soon_as_its_blank_line_is_there() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n") == []
    assert reader.feed(b"\n") == [b"a"]
    assert reader.feed(b"data: b\r\n\r\ndata: c") == [b"b"]
    assert reader.close() == [b"c"]


def test_token_of_a_megabyte_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    token = b"x" * 1_000_000
    reader = EventReader()
    data = b"data: " + token + b"\n\n"
    read = [event for i in range(0, len(data), 65_536) for event in reader.feed(data[i : i + 65_536])]
    assert read == [token]


@pytest.mark.parametrize("endless", [b"x", b"data: x\n", b": x"], ids=["a line", "an event", "a comment"])
def test_what_never_ends_is_an_error(endless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10_000)
    reader = EventReader()

    def read_on() -> None:
        for _ in range(20_000):
            reader.feed(endless)

    with pytest.raises(EventTooLarge):
        read_on()
