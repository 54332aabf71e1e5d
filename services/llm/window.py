"""Fits a conversation into a model's context: whole turns go, the oldest first; what the system says stays."""

from __future__ import annotations

from .model import Turn
from .tokens import estimate_tokens

TURN_TOKENS = 8
"""What a turn costs besides its text: marks and the role."""


def fit(turns: tuple[Turn, ...], max_tokens: int) -> tuple[Turn, ...]:
    """Drop the oldest turns until the rest fits.

    A turn here is what was said from one user message to the next: a question goes with its answer and with the tools that
    were called for it. The last one always stays, whatever its size: whether it fits, the endpoint says.

    Args:
        turns: of the conversation.
        max_tokens: what the prompt may have; 0: any number.
    """
    if not max_tokens:
        return turns
    cost = [estimate_tokens(turn.content) + TURN_TOKENS + _calls(turn) for turn in turns]
    total = sum(cost)
    starts = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if total <= max_tokens or not starts:
        return turns
    dropped: set[int] = set()
    first = next((i for i, turn in enumerate(turns) if turn.role != "system"), 0)
    for start, end in zip([first, *starts[1:]], starts[1:], strict=False):
        if total <= max_tokens:
            break
        for i in range(start, end):
            if turns[i].role != "system":
                dropped.add(i)
                total -= cost[i]
    return tuple(turn for i, turn in enumerate(turns) if i not in dropped)


def _calls(turn: Turn) -> int:
    return sum(estimate_tokens(call.name + call.arguments) for call in turn.tool_calls)
