"""services/rag/ranking.py: orders, and what scores say."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rag import ranking
from services.rag.ranking import Statistics, bm25, by_document, coverage, descending, fuse, relevance, similarity

STATISTICS = Statistics(pieces=10, mean_length=100.0, df={"灯": 8, "阿烬": 1, "河心": 2})


def test_idf_is_the_published_formula_and_rarer_terms_tell_more() -> None:
    assert STATISTICS.idf("阿烬") == pytest.approx(math.log(1 + 9.5 / 1.5))
    assert STATISTICS.idf("灯") < STATISTICS.idf("河心") < STATISTICS.idf("阿烬") < STATISTICS.idf("没有")
    assert Statistics(3, 1.0, {"x": 3}).idf("x") > 0


def test_bm25_is_the_published_formula() -> None:
    idf = math.log(1 + 9.5 / 1.5)
    assert bm25({"阿烬": 2}, 50, STATISTICS) == pytest.approx(idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 0.5)))
    assert bm25({"阿烬": 0, "灯": 0}, 50, STATISTICS) == 0
    assert bm25({}, 0, Statistics(0, 0.0, {})) == 0


def test_bm25_grows_with_frequency_and_falls_with_length() -> None:
    assert bm25({"灯": 1}, 100, STATISTICS) < bm25({"灯": 2}, 100, STATISTICS) < bm25({"灯": 1}, 100, STATISTICS) * 2
    assert bm25({"灯": 1}, 300, STATISTICS) < bm25({"灯": 1}, 100, STATISTICS)


def chapter(piece: str) -> str:
    return piece[0]


def test_a_document_that_answers_in_several_places_comes_first() -> None:
    scores = {"a1": 5.0, "b1": 4.0, "b2": 4.0, "b3": 4.0}
    assert by_document(scores, chapter)[0] == "b1"


def test_pieces_of_one_document_do_not_take_all_the_first_places() -> None:
    scores = {f"a{i}": 6.0 - i / 10 for i in range(9)} | {"b1": 5.0, "c1": 4.8}
    assert sorted(scores, key=lambda piece: -scores[piece])[:5] == ["a0", "a1", "a2", "a3", "a4"]
    assert {"b1", "c1"} <= set(by_document(scores, chapter, {"a": 9, "b": 1, "c": 1}.__getitem__)[:5])


def test_a_document_of_one_piece_does_not_lose_for_being_short() -> None:
    scores = {"n1": 6.0, "n2": 6.0, "n3": 6.0, "k1": 7.0}
    assert by_document(scores, chapter, {"n": 900, "k": 1}.__getitem__)[0] == "k1"
    assert by_document(scores, chapter, {"n": 900, "k": 900}.__getitem__)[0] == "n1"


def test_within_one_document_the_order_is_that_of_the_scores() -> None:
    scores = {"a1": 1.0, "a2": 3.0, "a3": 2.0}
    assert by_document(scores, chapter) == ["a2", "a3", "a1"]
    assert by_document({}, chapter) == []


@given(st.dictionaries(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), st.floats(0, 100), max_size=20))
@settings(deadline=None)
def test_order_by_document_has_every_piece_once_and_a_document_in_its_own_order(
    scores: dict[tuple[str, int], float],
) -> None:
    ordered = by_document(scores, lambda piece: piece[0])
    assert sorted(ordered) == sorted(scores)
    for name in "abcd":
        own = [scores[piece] for piece in ordered if piece[0] == name]
        assert own == sorted(own, reverse=True)


def test_fusion_is_reciprocal_ranks() -> None:
    assert fuse([(1.0, ["a1", "b1", "c1"]), (1.0, ["b1", "c1", "a1"])], chapter, k=60) == ["b1", "a1", "c1"]
    assert fuse([(1.0, ["a1", "b1"]), (0.1, ["b1", "a1"])], chapter) == ["a1", "b1"]
    assert fuse([(0.1, ["a1", "b1"]), (1.0, ["b1", "a1"])], chapter) == ["b1", "a1"]


def test_fusion_keeps_what_only_one_search_found() -> None:
    assert set(fuse([(1.0, ["a1"]), (1.0, ["b1", "c1"])], chapter)) == {"a1", "b1", "c1"}
    assert fuse([], chapter) == []


def test_two_searches_agree_on_a_document_by_different_pieces() -> None:
    assert fuse([(1.0, ["x1", "a1"]), (1.0, ["y1", "a2"])], chapter, k=10)[0] == "a1"


def test_pieces_of_one_document_keep_the_order_of_their_own_sums() -> None:
    between = [f"x{i}" for i in range(98)]
    fused = fuse([(1.0, ["a1", *between, "a2"]), (1.0, ["a3"]), (1.0, ["a4"])], chapter)
    assert [piece for piece in fused if piece[0] == "a"] == ["a1", "a3", "a4", "a2"]


def test_coverage_counts_terms_by_what_they_tell() -> None:
    weights = STATISTICS.weights(["阿烬", "灯"])
    assert coverage(weights, {"阿烬", "灯", "别的"}) == 1
    assert coverage(weights, {"灯"}) < 0.2 < 0.8 < coverage(weights, {"阿烬"}) < 1
    assert coverage(weights, set()) == 0
    assert coverage({}, {"灯"}) == 0


def test_a_query_about_what_is_not_there_finds_no_high_score() -> None:
    assert coverage(STATISTICS.weights(["灯", "量子", "计算机"]), {"灯"}) < 0.1


def test_similarity_is_how_far_above_unrelated_texts() -> None:
    assert similarity(0.7, 0.7) == 0
    assert similarity(0.5, 0.7) == 0
    assert similarity(0.85, 0.7) == pytest.approx(0.5)
    assert similarity(1.0, 0.7) == 1
    assert similarity(1.0, 1.0) == 0
    assert relevance(0.3, 0.5) == 0.5 == relevance(0.5)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1))
@settings(deadline=None)
def test_scores_of_ordered_results_never_rise_and_keep_their_mean_and_least(scores: list[float], least: float) -> None:
    shown = [score for score in scores if score >= least]
    smoothed = descending(shown)
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(smoothed))
    assert sum(smoothed) == pytest.approx(sum(shown))
    assert all(score >= least - 1e-9 for score in smoothed)


def test_scores_that_fall_already_are_left_as_they_are() -> None:
    assert descending([0.9, 0.5, 0.5, 0.1]) == [0.9, 0.5, 0.5, 0.1]
    assert descending([0.2, 0.4]) == pytest.approx([0.3, 0.3])


def test_weights_of_fusion_are_those_of_the_page() -> None:
    assert 0 < ranking.LEXICAL_WEIGHT < ranking.FULL_TEXT_WEIGHT
