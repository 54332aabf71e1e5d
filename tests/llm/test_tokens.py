from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.tokens import count_that_fits, estimate_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("你好", 2),  # 1.2
        ("你好，世界！", 4),  # 3.6
        ("hello", 2),  # 1.5
        ("hello world", 4),  # 3.3
        ("🐉", 1),
        ("Да", 2),
        ("剑名crescent", 4),  # 1.2 + 2.4
        ("café", 2),  # 1.2
    ],
)
def test_the_estimate_follows_its_rule(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@given(st.text(), st.text())
def test_the_estimate_never_falls_when_a_text_grows(begun: str, more: str) -> None:
    assert estimate_tokens(begun) <= estimate_tokens(begun + more) <= estimate_tokens(begun) + estimate_tokens(more)


@given(st.lists(st.text(max_size=4)), st.integers(0, 40))
def test_the_pieces_that_fit_are_as_many_as_possible(pieces: list[str], room: int) -> None:
    fitting = count_that_fits(pieces, room)
    assert estimate_tokens("".join(pieces[:fitting])) <= room
    assert fitting == len(pieces) or estimate_tokens("".join(pieces[: fitting + 1])) > room
