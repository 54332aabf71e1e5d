"""Which JSON a prompt asks for, and the answer in it.

A system prompt that wants JSON shows the shape as an example in a fence of its own (```json … ```). The fields of the example say
which of the four it is; an example of another shape is not understood, and the answer is a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from services.llm.model import Turn
from services.llm.tokens import estimate_tokens

from .characters import characters
from .material import Material, gather
from .outline import outline
from .plot import plot
from .review import review

Writer = Callable[[Material, int], dict[str, Any]]
"""(what was given, the most entries of a list) → the answer."""

WRITERS: tuple[tuple[frozenset[str], Writer], ...] = (
    (frozenset({"title", "premise", "chapters"}), outline),
    (frozenset({"conflict", "beats"}), plot),
    (frozenset({"score", "verdict", "summary", "issues"}), review),
    (frozenset({"characters"}), characters),
)
"""By the fields that its example must have."""

ENTRIES = (10, 6, 4, 2, 1)
"""The most entries of a list: as many as the answer has room for."""

_FENCE = re.compile(r"```json\s*\n(.*?)\n\s*```", re.DOTALL)


def writer_for(turns: Sequence[Turn]) -> Writer | None:
    """Find out which JSON is wanted. None: none, or one that is not understood."""
    for turn in turns:
        if turn.role != "system":
            continue
        for fence in _FENCE.finditer(turn.content):
            try:
                example = json.loads(fence[1])
            except ValueError:
                continue
            fields = example.keys() if isinstance(example, dict) else ()
            for needed, writer in WRITERS:
                if needed <= set(fields):
                    return writer
    return None


def write(writer: Writer, turns: Sequence[Turn], max_tokens: int) -> str:
    """Write the answer, with as many entries as it has room for.

    Args:
        max_tokens: of the answer; 0: no limit.
    """
    material = gather(turns)
    said = ""
    for most in ENTRIES:
        said = json.dumps(writer(material, most), ensure_ascii=False)
        if not max_tokens or estimate_tokens(said) <= max_tokens:
            break
    return said
