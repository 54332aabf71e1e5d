"""How much of a stream has been received, so that it can be read on from there (docs/bus-protocol.md, "Resume")."""

from __future__ import annotations

from typing import Any, Protocol

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import CHAT_STREAM, StreamJob

from . import convert
from .models import StreamChunk

MOST_DIGITS = 9


class Position(Protocol):
    """Where the reader of one stream stands."""

    @property
    def offset(self) -> str:
        """For the bridge; empty: at the beginning."""
        ...

    @property
    def event_id(self) -> str:
        """For a reader that may come back; `position_at` reads it."""
        ...

    def begin(self) -> None:
        """Another attempt begins."""

    def take(self, message: Any) -> StreamChunk | None:
        """Take what comes next.

        Returns:
            What the reader does not have yet; None: it has all of it.
        """
        ...


class ChatPosition:
    """Of a chat: code points of its text."""

    def __init__(self, received: int = 0) -> None:
        self._received = received

    @property
    def offset(self) -> str:
        """See `Position.offset`."""
        return str(self._received) if self._received else ""

    @property
    def event_id(self) -> str:
        """See `Position.event_id`."""
        return str(self._received)

    def begin(self) -> None:
        """See `Position.begin`."""

    def take(self, message: ai.ChatStreamChunk) -> StreamChunk | None:
        """See `Position.take`."""
        self._received += len(message.delta)
        return convert.chat_chunk(message)


class AgentPosition:
    """Of an agent: the number of its last chunk. A final chunk does not count before the stream has ended well.

    The bridge takes offset 0 for the whole stream, so a reader that has chunk 0 only is given it again, perhaps merged with what
    follows it: its length is needed to leave it out.
    """

    def __init__(self, seq: int = -1, first: int = 0) -> None:
        self._seq = seq
        self._first = first
        self._skip = 0

    @property
    def offset(self) -> str:
        """See `Position.offset`."""
        return str(self._seq) if self._seq > 0 else ""

    @property
    def event_id(self) -> str:
        """See `Position.event_id`."""
        return f"0.{self._first}" if self._seq == 0 else str(self._seq)

    def begin(self) -> None:
        """See `Position.begin`."""
        self._skip = self._first if self._seq == 0 else 0

    def take(self, message: ai.AgentStreamChunk) -> StreamChunk | None:
        """See `Position.take`."""
        chunk = convert.agent_chunk(message)
        skip, self._skip = self._skip, 0
        seq = int(message.metadata.get("seq", "-1"))
        if 0 <= seq <= self._seq:
            return None
        chunk.delta = chunk.delta[skip:]
        if not chunk.is_final:
            self._seq = seq
            if seq == 0:
                self._first = len(chunk.delta)
        return chunk


def position_at(route: StreamJob[Any, Any], event_id: str = "") -> Position | None:
    """Read where a reader stands.

    Args:
        route: of the stream.
        event_id: the last one that it has; empty: none.

    Returns:
        None: that is no event id of such a stream.
    """
    if route is CHAT_STREAM:
        if not event_id:
            return ChatPosition()
        return ChatPosition(int(event_id)) if _is_number(event_id) else None
    if event_id in ("", "-1"):
        return AgentPosition()
    seq, dot, first = event_id.partition(".")
    if not _is_number(seq) or (dot and not _is_number(first)):
        return None
    return AgentPosition(int(seq), int(first or "0"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
