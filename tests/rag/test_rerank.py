"""services/rag/rerank.py: near each other counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rag.rerank import SPAN, nearness, rerank

WEIGHTS = {"沈砚": 2.0, "铜钱": 3.0, "灯": 1.0}
FAR = "。" * (2 * SPAN)


def test_terms_in_one_sentence_are_nearer_than_terms_in_two_places() -> None:
    assert nearness("沈砚把铜钱压在灯下", WEIGHTS) == 1
    assert nearness(f"沈砚在等船{FAR}一枚铜钱", WEIGHTS) == pytest.approx(0.5)
    assert nearness("什么都没有", WEIGHTS) == 0
    assert nearness("", WEIGHTS) == nearness("沈砚", {}) == 0


def test_repeats_of_a_term_are_no_more_than_one() -> None:
    assert nearness("沈砚沈砚沈砚沈砚", WEIGHTS) == pytest.approx(2 / 6)


def test_a_text_is_compared_as_terms_are() -> None:
    assert nearness("把寶玉壓在燈下", {"宝玉": 1.0, "灯": 1.0}) == 1
    assert nearness("ＶＩＰ", {"vip": 1.0}) == 1


def test_of_equal_scores_the_nearer_text_is_first_and_a_score_still_counts() -> None:
    near, far = "沈砚把铜钱压在灯下", f"沈砚{FAR}铜钱{FAR}灯"
    first, second = rerank([far, near], [4.0, 4.0], WEIGHTS)
    assert first < second
    first, second = rerank([far, near], [4.0, 0.5], WEIGHTS)
    assert first > second
    assert rerank([], [], WEIGHTS) == []
    assert rerank([near], [0.0], WEIGHTS) == [1.0]


@given(st.text(alphabet="沈砚铜钱灯。", max_size=200), st.integers(0, 100))
@settings(deadline=None)
def test_nearness_is_what_a_look_at_every_span_finds(text: str, span: int) -> None:
    def held(at: int) -> float:
        return sum(w for term, w in WEIGHTS.items() if any(text.startswith(term, i) for i in range(at, at + span + 1)))

    expected = max((held(at) for at in range(len(text))), default=0.0) / 6
    assert nearness(text, WEIGHTS, span) == pytest.approx(expected)
