"""CloudEvents attributes as headers of NATS messages, and back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.bus.headers import decode as decode_block
from qingyu_ai.events.cloudevents import CONTENT_TYPE, NoCloudEvent, decode, encode, quoted, rfc3339

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEAST = {"ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-specversion": "1.0"}


def test_what_is_written_is_read_back() -> None:
    headers = decode_block(encode("c.7", "/qingyu-ai/chat", "a.v1.B", 1_700_000_000_123, "c", TRACE, unique=True))
    read = decode(headers)
    assert (read.id, read.source, read.type, read.subject) == ("c.7", "/qingyu-ai/chat", "a.v1.B", "c")
    assert (read.traceparent, read.content_type, read.extensions) == (TRACE, CONTENT_TYPE, {})
    assert read.time == "2023-11-14T22:13:20.123Z"
    assert headers["Nats-Msg-Id"] == "c.7"
    assert headers["content-type"] == CONTENT_TYPE


def test_only_what_must_be_stored_once_has_a_message_id() -> None:
    assert "Nats-Msg-Id" not in decode_block(encode("c.7", "/s", "t", 0, "c", "", unique=False))


@pytest.mark.parametrize("missing", list(LEAST))
def test_message_without_an_attribute_that_every_event_has_is_none(missing: str) -> None:
    with pytest.raises(NoCloudEvent, match=missing):
        decode({name: value for name, value in LEAST.items() if name != missing})


def test_next_major_version_is_not_guessed_at() -> None:
    with pytest.raises(NoCloudEvent, match=r"2\.0"):
        decode({**LEAST, "ce-specversion": "2.0"})


def test_message_without_headers_is_no_event() -> None:
    with pytest.raises(NoCloudEvent):
        decode(None)


def test_header_names_are_read_in_any_case_and_extensions_are_kept() -> None:
    read = decode({**{name.title(): value for name, value in LEAST.items()}, "CE-Tenant": "%E9%9D%92"})
    assert read.id == "1"
    assert read.extensions == {"tenant": "青"}


def test_example_of_the_binding() -> None:
    assert quoted("Euro € 😀") == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert decode({**LEAST, "ce-subject": '"a \\"b\\" c"'}).subject == 'a "b" c'


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(NoCloudEvent):
        decode({**LEAST, "ce-subject": "%C0%A0"})


@given(st.text())
def test_any_text_survives_as_one_line_of_printable_ascii(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair is no text
    written = quoted(text)
    assert written.isascii()
    assert written.isprintable()
    assert " " not in written
    assert decode({**LEAST, "ce-subject": written}).subject == text


@given(st.integers(0, 4_000_000_000_000))
def test_time_is_what_the_library_says(at_ms: int) -> None:
    assert datetime.fromisoformat(rfc3339(at_ms)) == datetime.fromtimestamp(at_ms // 1000, UTC).replace(
        microsecond=at_ms % 1000 * 1000
    )
