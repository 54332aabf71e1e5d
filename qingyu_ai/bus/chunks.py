"""How stream messages merge, and how they are numbered: one shape per stream message type.

Only neighbouring chunks of one kind of text merge; tool chunks and final chunks stand alone. Nothing is ever delayed in
order to be merged: what waits anyway goes out together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from qingyu_ai.contract import ai_agent_pb2

MERGED_BYTES = 64 * 1024
"""About how large a merged chunk may become, so that a caller still sees text arrive in portions."""


class Shape(Protocol):
    """What the bus must know about a stream message type, which has a text field `delta`."""

    type: type[Message]

    def kind(self, chunk: Any) -> str:
        """The kind of text the chunk carries; empty: it never merges."""

    def join(self, chunks: Sequence[Any]) -> Message:
        """Make one chunk of several of the same kind."""

    def number(self, chunk: Any, seq: int) -> None:
        """Write the chunk's number into it, where the contract has room for it."""


class ChatShape:
    """`ChatStreamChunk`: text only."""

    type: type[Message] = ai_agent_pb2.ChatStreamChunk

    def kind(self, chunk: ai_agent_pb2.ChatStreamChunk) -> str:
        """See `Shape.kind`."""
        return "" if chunk.is_final else "text"

    def join(self, chunks: Sequence[ai_agent_pb2.ChatStreamChunk]) -> Message:
        """See `Shape.join`."""
        return ai_agent_pb2.ChatStreamChunk(delta="".join([c.delta for c in chunks]))

    def number(self, chunk: ai_agent_pb2.ChatStreamChunk, seq: int) -> None:
        """A chat chunk has no room for a number: callers resume by code points."""


class AgentShape:
    """`AgentStreamChunk`: `text` and `reasoning` merge; `metadata.seq` numbers every chunk."""

    type: type[Message] = ai_agent_pb2.AgentStreamChunk

    def kind(self, chunk: ai_agent_pb2.AgentStreamChunk) -> str:
        """See `Shape.kind`."""
        return "" if chunk.is_final or chunk.chunk_type not in ("text", "reasoning") else chunk.chunk_type

    def join(self, chunks: Sequence[ai_agent_pb2.AgentStreamChunk]) -> Message:
        """Merge; the result carries the last one's metadata, so also its number."""
        return ai_agent_pb2.AgentStreamChunk(
            delta="".join([c.delta for c in chunks]), chunk_type=chunks[-1].chunk_type, metadata=chunks[-1].metadata
        )

    def number(self, chunk: ai_agent_pb2.AgentStreamChunk, seq: int) -> None:
        """See `Shape.number`."""
        chunk.metadata["seq"] = str(seq)


CHAT: Shape = ChatShape()
AGENT: Shape = AgentShape()


def shape_of(message: type[Message]) -> Shape:
    """Find the shape of a stream message type.

    Raises:
        KeyError: the type is no stream message of the contract.
    """
    return {shape.type: shape for shape in (CHAT, AGENT)}[message]


def merge(shape: Shape, chunks: Sequence[tuple[Any, int]]) -> tuple[list[bytes], list[int]]:
    """Merge neighbours of one kind.

    Args:
        shape: of the messages.
        chunks: (message, how many deltas it covers), in order.

    Returns:
        The encoded messages and how many deltas each covers.
    """
    if len(chunks) == 1:
        [(chunk, span)] = chunks
        return [chunk.SerializeToString()], [span]
    encoded: list[bytes] = []
    spans: list[int] = []
    run: list[Any] = []
    run_kind = ""
    run_span = run_bytes = 0

    def close() -> None:
        if run:
            encoded.append((run[0] if len(run) == 1 else shape.join(run)).SerializeToString())
            spans.append(run_span)

    kind_of = shape.kind
    for chunk, span in chunks:
        kind = kind_of(chunk)
        # Three bytes a character, which is what Chinese takes: cheaper than to size every delta.
        size = 3 * len(chunk.delta)
        if run and (not kind or kind != run_kind or run_bytes + size > MERGED_BYTES):
            close()
            run, run_span, run_bytes = [], 0, 0
        run.append(chunk)
        run_kind = kind
        run_span += span
        run_bytes += size
    close()
    return encoded, spans


def encode(chunks: Iterable[tuple[Any, int]]) -> tuple[list[bytes], list[int]]:
    """Like `merge`, for a deployment where merging is switched off."""
    pairs = list(chunks)
    return [chunk.SerializeToString() for chunk, _ in pairs], [span for _, span in pairs]


def merge_encoded(shape: Shape, chunks: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """Merge what a slow reader has left waiting. Chunks that stand alone keep their bytes."""
    if len(chunks) < 2:
        return [encoded for encoded, _ in chunks]
    parse = shape.type.FromString
    return merge(shape, [(parse(encoded), span) for encoded, span in chunks])[0]
