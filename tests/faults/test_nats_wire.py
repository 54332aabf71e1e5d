"""The proxy's parser takes each message as it is, however its bytes come."""

from __future__ import annotations

import pytest

from tests.faults.nats_wire import Message, Parser

BLOCK = b"NATS/1.0\r\nQai-Call: 7\r\n\r\n"

MESSAGES = [
    Message(b'CONNECT {"verbose":false}\r\n', b"CONNECT"),
    Message(b"PUB a.b 5\r\nhe\r\no\r\n", b"PUB", "a.b", "", b"", b"he\r\no"),
    Message(b"PUB a.b r.1 0\r\n\r\n", b"PUB", "a.b", "r.1"),
    Message(b"HPUB a r %d %d\r\n%bxy\r\n" % (len(BLOCK), len(BLOCK) + 2, BLOCK), b"HPUB", "a", "r", BLOCK, b"xy"),
    Message(b"MSG a 4 2\r\nok\r\n", b"MSG", "a", "", b"", b"ok"),
    Message(b"HMSG a 4 r %d %d\r\n%b\r\n" % (len(BLOCK), len(BLOCK), BLOCK), b"HMSG", "a", "r", BLOCK),
    Message(b"ping\r\n", b"PING"),
]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_are_read_in_pieces_of_any_size(size: int) -> None:
    parser, stream = Parser(), b"".join(message.raw for message in MESSAGES)
    read = [m for at in range(0, len(stream), size) for m in parser.feed(stream[at : at + size])]
    assert read == MESSAGES


def test_header_is_found_by_its_name() -> None:
    assert MESSAGES[3].header("Qai-Call") == "7"
    assert MESSAGES[3].header("Qai") == ""
    assert MESSAGES[0].header("Qai-Call") == ""
