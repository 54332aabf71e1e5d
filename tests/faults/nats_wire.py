"""The NATS protocol, as far as a proxy must read it to know one message from the next. Pure.

https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

from dataclasses import dataclass

CRLF = b"\r\n"

FROM_CLIENT = frozenset((b"PUB", b"HPUB"))
FROM_SERVER = frozenset((b"MSG", b"HMSG"))


@dataclass(frozen=True, slots=True)
class Message:
    """One operation: a published or delivered message, or a line of another kind, which has no subject."""

    raw: bytes
    """As it came."""
    verb: bytes
    subject: str = ""
    reply: str = ""
    headers: bytes = b""
    data: bytes = b""

    def header(self, name: str) -> str:
        """The value of a header; empty: there is none."""
        for line in self.headers.decode().split("\r\n"):
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        return ""


class Parser:
    """Takes the bytes of one direction of one connection."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes.

        Returns:
            The operations that are complete now.
        """
        self._buffer += data
        messages = []
        while (message := self._first()) is not None:
            messages.append(message)
            self._buffer = self._buffer[len(message.raw) :]
        return messages

    def _first(self) -> Message | None:
        end = self._buffer.find(CRLF)
        if end < 0:
            return None
        verb, *words = self._buffer[:end].split()
        verb = verb.upper()
        if verb not in FROM_CLIENT | FROM_SERVER:
            return Message(self._buffer[: end + 2], verb)
        size = int(words[-1])
        head = int(words[-2]) if verb.startswith(b"H") else 0
        raw = self._buffer[: end + 2 + size + 2]
        if len(raw) < end + 2 + size + 2:
            return None
        names = words[: -2 if verb.startswith(b"H") else -1]
        if verb in FROM_SERVER:
            del names[1]  # the subscription's number
        subject, reply = names[0].decode(), names[1].decode() if len(names) > 1 else ""
        body = raw[end + 2 : -2]
        return Message(raw, verb, subject, reply, body[:head], body[head:])
