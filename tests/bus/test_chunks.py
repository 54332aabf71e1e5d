"""Merging loses nothing, never crosses a border, and stays in portions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.bus.chunks import AGENT, CHAT, MERGED_BYTES, merge, merge_encoded, shape_of
from qingyu_ai.contract.ai_agent_pb2 import AgentStreamChunk, ChatStreamChunk


def chat(*deltas: str) -> list[tuple[ChatStreamChunk, int]]:
    return [(ChatStreamChunk(delta=d), 1) for d in deltas]


def test_neighbouring_chat_deltas_become_one_chunk_that_covers_them_all() -> None:
    encoded, spans = merge(CHAT, chat("红", "楼", "梦"))
    assert [ChatStreamChunk.FromString(e).delta for e in encoded] == ["红楼梦"]
    assert spans == [3]


def test_final_chunk_stands_alone() -> None:
    encoded, spans = merge(CHAT, [*chat("红", "楼"), (ChatStreamChunk(is_final=True), 1)])
    chunks = [ChatStreamChunk.FromString(e) for e in encoded]
    assert [(c.delta, c.is_final) for c in chunks] == [("红楼", False), ("", True)]
    assert spans == [2, 1]


def test_merged_chunk_stays_below_its_limit() -> None:
    deltas = chat(*["字" * 1000] * 60)
    encoded, spans = merge(CHAT, deltas)
    assert len(encoded) > 1
    assert all(len(e) <= MERGED_BYTES + 16 for e in encoded)
    assert sum(spans) == 60


def test_chunk_larger_than_the_limit_passes_alone() -> None:
    encoded, spans = merge(CHAT, chat("a", "字" * MERGED_BYTES, "b"))
    assert spans == [1, 1, 1]
    assert len(encoded) == 3


def test_agent_text_and_reasoning_merge_apart_and_tool_chunks_stand_alone() -> None:
    kinds = ["reasoning", "reasoning", "text", "tool_start", "tool_end", "text", "text"]
    chunks = [AgentStreamChunk(delta=str(i), chunk_type=kind) for i, kind in enumerate(kinds)]
    for i, chunk in enumerate(chunks):
        AGENT.number(chunk, i)
    encoded, spans = merge(AGENT, [(c, 1) for c in chunks])
    merged = [AgentStreamChunk.FromString(e) for e in encoded]
    assert [(c.chunk_type, c.delta, c.metadata["seq"]) for c in merged] == [
        ("reasoning", "01", "1"),
        ("text", "2", "2"),
        ("tool_start", "3", "3"),
        ("tool_end", "4", "4"),
        ("text", "56", "6"),
    ]
    assert spans == [2, 1, 1, 1, 2]


def test_single_encoded_chunk_keeps_its_bytes() -> None:
    odd = ChatStreamChunk(delta="x").SerializeToString() + b"\x1a\x03new"  # a field of a later release
    assert merge_encoded(CHAT, [(odd, 1)]) == [odd]


def test_shape_is_found_by_message_type() -> None:
    assert shape_of(ChatStreamChunk) is CHAT
    assert shape_of(AgentStreamChunk) is AGENT


@given(
    st.lists(
        st.tuples(st.sampled_from(["text", "reasoning", "tool_start", "final"]), st.text(max_size=20)), max_size=30
    )
)
def test_merging_keeps_every_character_in_order_and_every_border(story: list[tuple[str, str]]) -> None:
    chunks = [AgentStreamChunk(delta=text, chunk_type=kind, is_final=kind == "final") for kind, text in story]
    encoded, spans = merge(AGENT, [(c, 1) for c in chunks])
    merged = [AgentStreamChunk.FromString(e) for e in encoded]
    assert sum(spans) == len(story)
    at = 0
    for chunk, span in zip(merged, spans, strict=True):
        part = story[at : at + span]
        assert chunk.delta == "".join(text for _, text in part)
        assert {kind for kind, _ in part} == {chunk.chunk_type}
        at += span
