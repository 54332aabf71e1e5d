"""Vectors without a model, named as what they are: characters and their pairs, hashed. They know spelling, not meaning.

They let everything that needs vectors run without a network. Two texts are near if they share wording; a paraphrase is not found.
Whoever needs meaning configures an embedding model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import log, sqrt
from zlib import crc32

from .terms import split_letters

PAIR_WEIGHT = 0.5
"""Of a pair beside a single character: pairs are many, and share the dimensions with everything else."""

FUNCTION_CHARACTERS = frozenset(
    "的了着过是在和有不没也都就又还才把被将便要得我你他她它们这那个一之与其来去上下里说道人么呢吗吧啊呀而且以于为所者乃则儿"
)
"""Characters that say little alone. Without counts of a collection there is no idf, so a list has to do."""


class LexicalEmbedding:
    """Hashed n-grams with signs (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009).

    The same text gives the same vector in every process and on every Python: the hash is CRC-32.
    """

    def __init__(self, dimension: int = 1024) -> None:
        """Choose the dimension; fewer means more n-grams that share one by chance."""
        if dimension < 1:
            raise ValueError(f"a vector of {dimension} dimensions")
        self.dimension = dimension
        self.name = f"lexical-hash-v1-{dimension}"
        """What is stored with the vectors. Another way of hashing needs another name."""

    def __repr__(self) -> str:
        return f"<LexicalEmbedding {self.name}>"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts, in their order.

        Returns:
            float[len(texts), dimension] of length 1; all zeros for a text without letters.
        """
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension
        for gram, count in Counter(_grams(text)).items():
            hashed = crc32(gram.encode())
            weight = (1 + log(count)) * (PAIR_WEIGHT if len(gram) == 2 else 1.0)
            vector[(hashed >> 1) % self.dimension] += weight if hashed & 1 else -weight
        length = sqrt(sum(value * value for value in vector))
        return [value / length for value in vector] if length else vector


def _grams(text: str) -> Iterable[str]:
    for run in split_letters(text):
        yield from (char for char in run if char not in FUNCTION_CHARACTERS)
        yield from (a + b for a, b in pairwise(run) if not (a in FUNCTION_CHARACTERS and b in FUNCTION_CHARACTERS))
