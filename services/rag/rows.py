"""A document as rows, by column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .stored import Model, Piece, Vector, counted, unit


@dataclass(frozen=True, slots=True)
class Rows:
    """A document's rows by column, made before the transaction: there is nothing to compute while rows are locked."""

    pieces: dict[str, list[Any]]
    postings: dict[str, str]
    """A document has thousands: psycopg would look at each of them for what must be quoted."""
    vectors: dict[str, list[Any]]
    terms: int

    @classmethod
    def of(cls, pieces: Sequence[Piece], vectors: Mapping[Model, Sequence[Vector]]) -> Rows:
        """Make them."""
        times = [counted(piece.terms) for piece in pieces]
        lengths = [count.total() for count in times]
        postings = [
            (term, piece.index, n, length)
            for piece, count, length in zip(pieces, times, lengths, strict=True)
            for term, n in count.items()
        ]
        made = [
            (model.key, piece.index, piece.hash, unit(vector, model.dimension))
            for model, of_pieces in vectors.items()
            for piece, vector in zip(pieces, of_pieces, strict=True)
        ]
        return cls(
            {
                "numbers": [piece.index for piece in pieces],
                "starts": [piece.start for piece in pieces],
                "ends": [piece.end for piece in pieces],
                "contents": [piece.text for piece in pieces],
                "terms": lengths,
                "hashes": [piece.hash for piece in pieces],
            },
            {
                "terms": "\n".join([term for term, _, _, _ in postings]),
                "numbers": _integers(number for _, number, _, _ in postings),
                "times": _integers(n for _, _, n, _ in postings),
                "lengths": _integers(length for _, _, _, length in postings),
            },
            dict(zip(("models", "numbers", "hashes", "vectors"), _columns(made, 4), strict=True)),
            sum(lengths),
        )


def _integers(numbers: Iterable[int]) -> str:
    """Write an array as PostgreSQL reads it."""
    return f"{{{','.join(map(str, numbers))}}}"


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]
