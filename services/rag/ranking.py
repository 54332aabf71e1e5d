"""How what was found is ordered, and what its score says. Pure functions of numbers that a store keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, log
from typing import TypeVar

P = TypeVar("P", bound=Hashable)
"""A piece, by whatever names it."""

D = TypeVar("D", bound=Hashable)
"""A document."""

K1 = 1.2
"""How soon the second and third time of a term stop counting."""

B = 0.75
"""How much a longer piece must hold more."""

SUPPORTING = 3
"""Pieces of a document that speak for it together."""

SUPPORT = 9.0
"""What their mean weighs beside the piece's own score."""

REPEAT = 0.7
"""What each further piece of one document keeps of that support, so that other documents come between."""

RANK_CONSTANT = 10
"""k of reciprocal rank fusion. The paper has 60, for lists of a thousand; ours have a hundred."""

FULL_TEXT_WEIGHT = 1.0

LEXICAL_WEIGHT = 0.05
"""Of vectors that are hashed n-grams: they see nothing that full text does not, and a larger weight costs more than it finds."""

MODEL_WEIGHT = 1.0
"""Of vectors from a model, as in the paper. Not measured here: no model is."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What BM25 must know of all pieces that are searched: those of one user and project."""

    pieces: int
    mean_length: float
    """Terms of a piece, with repeats."""
    df: Mapping[str, int]
    """In how many pieces a term is. Terms that are missing are in none."""
    idfs: Mapping[str, float] = field(init=False, repr=False)
    """Of the terms of `df`: every candidate asks for them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "idfs", {term: self._idf(n) for term, n in self.df.items()})

    def idf(self, term: str) -> float:
        """How much a term tells: ln(1 + (N - df + 0.5) / (df + 0.5)), never negative."""
        return self.idfs[term] if term in self.idfs else self._idf(0)

    def _idf(self, df: int) -> float:
        return log(1 + (self.pieces - df + 0.5) / (df + 0.5))

    def weights(self, terms: Iterable[str]) -> dict[str, float]:
        """The terms of a query, each with what it tells."""
        return {term: self.idf(term) for term in terms}


def bm25(tf: Mapping[str, int], length: int, statistics: Statistics, k1: float = K1, b: float = B) -> float:
    """Score a piece by the terms that it shares with the query.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; the idf is that of Lucene.

    Args:
        tf: how often the piece holds each term of the query; what it does not hold may be missing, what it holds is in `df`.
        length: terms of the piece, with repeats.
    """
    norm = k1 * (1 - b + b * length / statistics.mean_length) if statistics.mean_length else k1
    idfs = statistics.idfs
    return fsum([idfs[term] * n * (k1 + 1) / (n + norm) for term, n in tf.items() if n])


def by_document(
    scores: Mapping[P, float], document: Callable[[P], D], size: Callable[[D], int] = lambda _: SUPPORTING
) -> list[P]:
    """Order pieces, the best first, by their own scores and what other pieces of the same document add.

    A question often has its answer in several places of one chapter. So a document's best piece stands for it with the mean of
    its `SUPPORTING` best, `SUPPORT` times; the next piece of the document has `REPEAT` of that, and so on. A document of
    fewer pieces has the mean of those: a card of one paragraph must not lose to a novel for being short. Within a document
    the order is that of the scores. Equal scores keep the order of `scores`.

    Args:
        scores: not negative. What is missing is 0.
        document: whose piece it is.
        size: how many pieces a document has, also without a score.
    """
    grouped: dict[D, list[P]] = defaultdict(list)
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        grouped[document(piece)].append(piece)
    total: dict[P, float] = {}
    for name, pieces in grouped.items():
        best = [scores[piece] for piece in pieces[:SUPPORTING]]
        support = SUPPORT * sum(best) / max(len(best), min(SUPPORTING, size(name)))
        for nth, piece in enumerate(pieces):
            total[piece] = scores[piece] + support * REPEAT**nth
    return sorted(total, key=lambda piece: -total[piece])


def fuse(
    rankings: Sequence[tuple[float, Sequence[P]]], document: Callable[[P], D], k: float = RANK_CONSTANT
) -> list[P]:
    """Join several orders into one by reciprocal ranks: the sum of weight / (k + rank).

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods", 2009.
    What is fused is "the nth piece of that document", and the pieces of a document then take its places by their own reciprocal
    ranks: two searches may agree on a document by different pieces of it. Equal sums keep the order of the rankings.

    Args:
        rankings: weight and pieces, the best first, none twice.
    """
    of_pieces: dict[P, float] = defaultdict(float)
    of_places: dict[tuple[D, int], float] = defaultdict(float)
    for weight, ranking in rankings:
        nth: dict[D, int] = defaultdict(int)
        for rank, piece in enumerate(ranking, 1):
            name = document(piece)
            of_pieces[piece] += weight / (k + rank)
            of_places[name, nth[name]] += weight / (k + rank)
            nth[name] += 1
    own: dict[D, list[P]] = defaultdict(list)
    total: dict[P, float] = {}
    for piece in sorted(of_pieces, key=lambda piece: -of_pieces[piece]):
        name = document(piece)
        # There are more pieces than places where the searches found different ones.
        total[piece] = of_places.get((name, len(own[name])), of_pieces[piece])
        if own[name]:
            total[piece] = min(total[piece], total[own[name][-1]])
        own[name].append(piece)
    return sorted(total, key=lambda piece: -total[piece])


def coverage(weights: Mapping[str, float], held: Collection[str]) -> float:
    """The share of what a query asks that a piece holds: 0 none of its terms, 1 all of them.

    Terms count by what they tell (`Statistics.weights`), so half the words may be nearly everything. A term that is in no
    piece at all counts as well: a query about what is not there finds no high score. It depends on the query, the piece and
    the user's texts only, not on how the piece was found; so a `min_score` means the same in every kind of search.
    """
    asked = fsum(weights.values())  # fsum: the same in whatever order a piece's terms come
    return min(1.0, fsum([weights[term] for term in held if term in weights]) / asked) if asked > 0 else 0.0


def similarity(cosine: float, background: float) -> float:
    """How far a model's cosine is above that of texts that have nothing in common: 0 as they are, 1 the same text.

    Args:
        background: the mean cosine of unrelated pieces under that model. Many models never go below 0.6, so a cosine alone says
            nothing.
    """
    return min(1.0, max(0.0, (cosine - background) / (1 - background))) if background < 1 else 0.0


def relevance(covered: float, similar: float = 0.0) -> float:
    """The score of a result, from 0 to 1: by words or by meaning, whichever is the better reason to show it.

    Args:
        covered: from `coverage`.
        similar: from `similarity`, of a model's vectors. 0 for lexical ones: what they see is in `covered`.
    """
    return max(covered, similar)


def descending(scores: Sequence[float]) -> list[float]:
    """Scores that never rise, for results that are already ordered by more than their scores.

    Where a later result has a higher score than an earlier one, the two and what is between them share their mean: isotonic
    regression by pooling adjacent violators (Ayer et al., 1955). What was at least `min_score` stays so.
    """
    pools: list[tuple[float, int]] = []
    for score in scores:
        total, count = score, 1
        while pools and total * pools[-1][1] > pools[-1][0] * count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]
