"""The product's own functions over documents in memory. Another engine needs the same two methods."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from services.rag.lexical import LexicalEmbedding
from services.rag.ranking import (
    FULL_TEXT_WEIGHT,
    LEXICAL_WEIGHT,
    Statistics,
    bm25,
    by_document,
    coverage,
    descending,
    fuse,
)
from services.rag.rerank import CANDIDATES, rerank
from services.rag.splitting import split
from services.rag.terms import MOST_QUERY_TERMS, terms

from .corpus import Document

Mode = Literal["full text", "vectors", "hybrid", "hybrid + rerank"]
MODES: tuple[Mode, ...] = ("full text", "vectors", "hybrid", "hybrid + rerank")

TARGET, OVERLAP = 400, 80
DEPTH = 100
"""Pieces that each search hands on."""


@dataclass(frozen=True, slots=True)
class Result:
    """A piece that was found."""

    number: int
    """Of its chapter."""
    text: str
    score: float


class Engine(Protocol):
    """What is measured."""

    def index(self, documents: Sequence[Document]) -> None:
        """Store the documents."""

    def search(self, query: str, mode: Mode) -> list[Result]:
        """The pieces that fit, the best first."""


class InMemory:
    """Every piece scored for every query."""

    def __init__(self, take: Callable[[str], list[str]] = terms, target: int = TARGET, overlap: int = OVERLAP) -> None:
        """Begin empty.

        Args:
            take: takes a text apart into terms.
        """
        self._take = take
        self._sizes_of_pieces = target, overlap
        self._embedding = LexicalEmbedding()
        self._texts: list[str] = []
        self._numbers: list[int] = []
        self._tf: list[Counter[str]] = []
        self._lengths: list[int] = []
        self._vectors: list[list[float]] = []
        self._postings: dict[str, list[int]] = defaultdict(list)
        self._sizes: Counter[int] = Counter()
        self._near: dict[str, list[int]] = {}

    def index(self, documents: Sequence[Document]) -> None:
        """Split, take terms, embed."""
        for document in documents:
            for piece in split(document.text, *self._sizes_of_pieces):
                found = self._take(piece.text)
                self._numbers.append(document.number)
                self._texts.append(piece.text)
                self._lengths.append(len(found))
                self._tf.append(Counter(found))
                self._sizes[document.number] += 1
                for term in self._tf[-1]:
                    self._postings[term].append(len(self._texts) - 1)

    def __len__(self) -> int:
        """Pieces."""
        return len(self._texts)

    def search(self, query: str, mode: Mode) -> list[Result]:
        """The best `DEPTH` pieces."""
        asked = list(dict.fromkeys(self._take(query)))[:MOST_QUERY_TERMS]
        statistics = Statistics(
            len(self._texts),
            sum(self._lengths) / max(1, len(self._lengths)),
            {term: len(self._postings[term]) for term in asked if term in self._postings},
        )
        by_words = self._by_words(asked, statistics)
        found = self._ordered(by_words)
        if mode != "full text":
            near = self._near.get(query) or self._ordered(self._by_vector(query))
            self._near[query] = near
            found = (
                near if mode == "vectors" else fuse([(FULL_TEXT_WEIGHT, found), (LEXICAL_WEIGHT, near)], self._number)
            )
        weights = statistics.weights(asked)
        if mode == "hybrid + rerank":
            first, rest = found[:CANDIDATES], found[CANDIDATES:]
            anew = rerank([self._texts[i] for i in first], [by_words.get(i, 0.0) for i in first], weights)
            found = by_document(dict(zip(first, anew, strict=True)), self._number, self._sizes.__getitem__) + rest
        scores = descending([coverage(weights, self._tf[i]) for i in found])
        return [Result(self._numbers[i], self._texts[i], score) for i, score in zip(found, scores, strict=True)]

    def _number(self, piece: int) -> int:
        return self._numbers[piece]

    def embed(self) -> None:
        """Make the vectors, which the first search would do otherwise."""
        self._vectors = self._embedding.embed(self._texts)

    def _ordered(self, scores: dict[int, float]) -> list[int]:
        return by_document(scores, self._number, self._sizes.__getitem__)[:DEPTH]

    def _by_words(self, asked: Sequence[str], statistics: Statistics) -> dict[int, float]:
        pieces = {piece for term in asked for piece in self._postings.get(term, ())}
        return {
            piece: bm25({term: self._tf[piece][term] for term in asked}, self._lengths[piece], statistics)
            for piece in sorted(pieces)
        }

    def _by_vector(self, query: str) -> dict[int, float]:
        if not self._vectors:
            self.embed()
        (vector,) = self._embedding.embed([query])
        set_ = [(i, x) for i, x in enumerate(vector) if x]
        return {piece: max(0.0, sum(x * own[i] for i, x in set_)) for piece, own in enumerate(self._vectors)}
