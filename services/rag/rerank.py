"""A closer look at candidates without a model: how near to each other they hold what the query asks.

BM25 does not see whether a piece says it in one sentence or in ten. What this gains and where it loses is measured in
docs/retrieval.md. A configured rerank model (services/llm/vectors.py) takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .terms import fold

CANDIDATES = 30
"""Pieces that are looked at; the rest stay behind them in their order."""

SPAN = 20
"""Characters: about two clauses. Terms that begin within it are near each other."""


def rerank(texts: Sequence[str], scores: Sequence[float], weights: Mapping[str, float]) -> list[float]:
    """Score candidates anew: their score as a share of the best one's, plus `nearness`.

    Args:
        texts: of the candidates.
        scores: from full text, not negative; 0 for one that only its vector found.
        weights: the query's terms (`Statistics.weights`).

    Returns:
        float[len(texts)], 0 to 2, for `ranking.by_document`.
    """
    best = max(scores, default=0.0) or 1.0
    return [score / best + nearness(text, weights) for text, score in zip(texts, scores, strict=True)]


def nearness(text: str, weights: Mapping[str, float], span: int = SPAN) -> float:
    """The largest share of a query that begins within one span of a text: 0 nothing of it, 1 all of it."""
    asked = sum(weights.values())
    if asked <= 0:
        return 0.0
    places = sorted(_places(fold(text), weights))
    inside: dict[str, int] = {}
    best = held = 0.0
    first = 0
    for at, term in places:
        if not inside.get(term):
            held += weights[term]
        inside[term] = inside.get(term, 0) + 1
        while places[first][0] < at - span:
            left = places[first][1]
            inside[left] -= 1
            if not inside[left]:
                held -= weights[left]
            first += 1
        best = max(best, held)
    return min(1.0, best / asked)


def _places(text: str, weights: Mapping[str, float]) -> Iterator[tuple[int, str]]:
    for term in weights:
        at = text.find(term) if term else -1
        while at >= 0:
            yield at, term
            at = text.find(term, at + 1)
