"""A stream that is read again, from where its caller stands.

A chat stream counts code points of text; an agent stream counts chunks, by `metadata.seq` of the last one received. The log is
read from its start, and what the caller has is left out, also inside a chunk: chunks may be merged otherwise than they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qingyu_ai.bus.errors import Invalid, Lost
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import StreamJob

from .admission import RESUME_KEY

Chunk = tuple[bytes, int]
"""An encoded stream message and how many deltas it covers."""


class Resume:
    """Leaves out what one caller has.

    Args:
        route: of the stream.
        offset: as the caller gave it.
    """

    def __init__(self, route: StreamJob[Any, Any], offset: int) -> None:
        self._chat = route.reply is ai.ChatStreamChunk
        self._offset = offset
        self._left = offset if self._chat else offset + 1  # agent chunks count from 0, and the given one was received
        self._passed = 0

    def trim(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Leave out the beginning of what comes next.

        Raises:
            Invalid: the offset lies inside an agent's chunk, where no caller can stand.
        """
        kept = list(chunks)
        while self._left and kept:
            encoded, span = kept[0]
            if self._chat:
                chunk = ai.ChatStreamChunk.FromString(encoded)
                if chunk.is_final:
                    break
                size = len(chunk.delta)
                if size > self._left:
                    chunk.delta = chunk.delta[self._left :]
                    kept[0] = chunk.SerializeToString(), span
                    self._passed += self._left
                    self._left = 0
                    break
            else:
                size = span
                if size > self._left:
                    raise Invalid((RESUME_KEY, f"no chunk of this stream ends at {self._offset}"))
            self._left -= size
            self._passed += size
            del kept[0]
        return kept

    def check_end(self, *, failed: bool) -> None:
        """The stream has ended.

        Raises:
            Lost: the caller has more of it than there is, and it is not known for broken.
        """
        if self._left and not failed:
            raise Lost(
                f"you ask to read on from {self._offset}, and it has only {self._passed}",
                f"请求从 {self._offset} 处续读，而该流只有 {self._passed}",
            )
