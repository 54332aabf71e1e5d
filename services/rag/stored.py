"""What is stored, as values: documents, their pieces, vectors and the models that made them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST_TERM = 64
"""Characters of a term that count. Longer ones are no words; PostgreSQL's index refuses entries of more than 2,700 bytes."""

Vector = Sequence[float]
"""float[dimension]."""


class Model(NamedTuple):
    """A model that makes vectors. Vectors of two models cannot be compared, nor can those of two dimensions."""

    name: str
    dimension: int

    @property
    def key(self) -> str:
        """What the database knows it by."""
        return f"{self.name}/{self.dimension}"


class PieceKey(NamedTuple):
    """A piece of one version of a document; a later version's pieces have other keys."""

    document: int
    piece: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document's text.

    Args:
        start, end: where it is in the text, code points.
        terms: its words, with repeats.
    """

    index: int
    start: int
    end: int
    text: str
    terms: Sequence[str]

    @property
    def hash(self) -> bytes:
        """Of the text."""
        return hash_of(self.text)


@dataclass(frozen=True, slots=True)
class Document:
    """A document beside its text."""

    document_id: str
    project_id: str = ""
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    names: Sequence[str] = ()
    """What it brings into the dictionary of its project."""


def hash_of(text: str) -> bytes:
    """Name a text: 16 bytes of BLAKE2b."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def counted(terms: Sequence[str]) -> Counter[str]:
    """How often each term is there, cut to what counts of it."""
    return Counter(term[:LONGEST_TERM] for term in terms if term)


def unit(vector: Vector, dimension: int) -> str:
    """Write a vector of length 1 as pgvector reads it: then the inner product is the cosine. One of zeros stays as it is, and is
    like nothing.

    Raises:
        ValueError: it has another dimension, or holds what is no number.
    """
    if len(vector) != dimension:
        raise ValueError(f"a vector of {len(vector)} numbers, where the model's have {dimension}")
    length = math.sqrt(math.fsum(x * x for x in vector))
    if not math.isfinite(length):
        raise ValueError("a vector with a number that is none")
    scale = 1 / length if length else 0.0
    return f"[{','.join([f'{x * scale:.7g}' for x in vector])}]"


def read_vector(written: str) -> list[float]:
    """Read what pgvector writes."""
    return [float(x) for x in written[1:-1].split(",")]
