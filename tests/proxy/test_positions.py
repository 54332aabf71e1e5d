"""Where a reader stands, however the rest is merged when it comes back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qingyu_ai.bus.chunks import AGENT, merge_encoded
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.routes import CHAT_STREAM, EXECUTE_AGENT_STREAM
from services.proxy.positions import AgentPosition, position_at


def said(texts: list[tuple[str, str]]) -> list[ai.AgentStreamChunk]:
    return [
        ai.AgentStreamChunk(delta=text, chunk_type=kind, metadata={"seq": str(seq)})
        for seq, (kind, text) in enumerate(texts)
    ]


texts = st.lists(st.tuples(st.sampled_from(["text", "reasoning"]), st.text(min_size=1, max_size=4)), min_size=1)


@given(texts, st.integers(0, 20))
@example([("text", "雨"), ("text", "停")], 1)
@example([("text", "雨"), ("reasoning", "想"), ("text", "停")], 2)
def test_agent_stream_that_is_read_on_has_no_gap_and_no_repeat(deltas: list[tuple[str, str]], cut: int) -> None:
    """As the bridge does it: from an offset above 0 what follows it, otherwise everything, merged as it likes."""
    chunks = said(deltas)
    cut = min(cut, len(chunks))
    position = AgentPosition()
    taken = [position.take(chunk) for chunk in chunks[:cut]]
    again = position_at(EXECUTE_AGENT_STREAM, position.event_id)
    assert again is not None
    again.begin()
    rest = chunks[int(again.offset) + 1 :] if again.offset else chunks
    merged = merge_encoded(AGENT, [(chunk.SerializeToString(), 1) for chunk in rest])
    taken += [again.take(ai.AgentStreamChunk.FromString(encoded)) for encoded in merged]
    for kind in "text", "reasoning":
        assert "".join(c.delta for c in taken if c and c.chunk_type == kind) == "".join(
            t for k, t in deltas if k == kind
        )


@given(st.text(max_size=20))
def test_chat_counts_code_points(text: str) -> None:
    position = position_at(CHAT_STREAM, "7")
    assert position is not None
    position.take(ai.ChatStreamChunk(delta=text))
    assert position.event_id == str(7 + len(text))
    again = position_at(CHAT_STREAM, position.event_id)
    assert again is not None
    assert again.offset == position.event_id


@pytest.mark.parametrize("event_id", ["x", "-5", "1e3", "٣", "9" * 40, "1.x", " 1"])
@pytest.mark.parametrize("route", [CHAT_STREAM, EXECUTE_AGENT_STREAM], ids=lambda r: r.method)
def test_what_is_no_event_id_is_refused(route: object, event_id: str) -> None:
    assert position_at(route, event_id) is None  # type: ignore[arg-type]
