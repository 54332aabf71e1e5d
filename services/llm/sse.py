"""Server-sent events, read from bytes that arrive in any pieces (WHATWG HTML, section 9.2, "Server-sent events").

Only `data` matters here: OpenAI-compatible endpoints put everything into it. Comments, which keep a connection alive, and
the fields `event`, `id` and `retry` are read over.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""An event larger than what one answer may have in the log is no answer."""

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event, or a line that does not end, is larger than `MAX_EVENT_BYTES`."""


class EventReader:
    """Turns bytes into events. One instance reads one body."""

    __slots__ = ("_begun", "_data", "_pieces", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._pieces: list[bytes] = []
        """Of a line that goes on and on: joined once, when its end is there."""
        self._size = 0
        """Of what is held: the line that has not ended and the event that has not."""
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived.

        Returns:
            The data of each event that is complete now.

        Raises:
            EventTooLarge: an event grows without end.
        """
        self._size += len(data)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge
        if self._begun and b"\n" not in data and b"\r" not in data and not self._rest.endswith(b"\r"):
            self._pieces.append(data)
            return []
        data = b"".join((self._rest, *self._pieces, data))
        self._pieces.clear()
        if not self._begun:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = data
                return []
            self._begun = True
            data = data.removeprefix(_BOM)
        held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                data, held = data[:-1], b"\r"  # perhaps half of a CRLF
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        self._rest = lines.pop() + held
        events = self._read(lines)
        if events or not self._data:
            self._size = len(self._rest) + sum(map(len, self._data))
        return events

    def close(self) -> list[bytes]:
        """The body has ended: some endpoints leave out the last blank line."""
        rest = b"".join((self._rest, *self._pieces))
        return self._read([*rest.replace(b"\r", b"\n").split(b"\n"), b""])

    def _read(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
                self._data.clear()
        return events
