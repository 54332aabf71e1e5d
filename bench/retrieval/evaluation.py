"""Figures of an engine over queries with known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .corpus import Query
from .engine import Result

HITS = (1, 5)


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares of queries, 0 to 1."""

    count: int
    hit: dict[int, float]
    """By k: whether one of the first k results is right."""
    mrr: float
    """The mean of 1 / the rank of the first right result; 0 for a query without one."""

    def __str__(self) -> str:
        """One row of a table."""
        return " ".join(f"{value:.3f}" for value in (*self.hit.values(), self.mrr))


def figures(ranks: Sequence[int | None]) -> Figures:
    """Sum ranks up.

    Args:
        ranks: of the first right result of each query, from 1; None: there was none.
    """
    count = len(ranks)
    hit = {k: sum(1 for rank in ranks if rank and rank <= k) / max(1, count) for k in HITS}
    return Figures(count, hit, sum(1 / rank for rank in ranks if rank) / max(1, count))


def is_chapter(query: Query, result: Result) -> bool:
    """A result is right if it is of the right chapter."""
    return result.number == query.number


def is_passage(query: Query, result: Result) -> bool:
    """A result is right if it holds the passage that answers."""
    return result.number == query.number and query.evidence in result.text


def ranks(
    queries: Sequence[Query],
    found: Sequence[Sequence[Result]],
    right: Callable[[Query, Result], bool] = is_chapter,
) -> list[int | None]:
    """Where the first right result of each query stands, from 1, as results come: several of one chapter are several."""
    return [
        next((rank for rank, result in enumerate(results, 1) if right(query, result)), None)
        for query, results in zip(queries, found, strict=True)
    ]
