"""How common the common words are, remembered: to count in how many of twenty thousand pieces 的 is costs more than the rest of a
search, and tells next to nothing.

A word that is in many pieces has the same share of them a moment later, so its share is kept until the number of pieces has
changed by more than `DRIFT`, for `SECONDS` at most. Rare words, which decide an order, are counted anew by every search.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

COMMON = 500
"""Pieces from which a word is common."""

DRIFT = 0.02
SECONDS = 600.0
SCOPES = 128
"""That are remembered, the least used goes first: of one user, project and filter each."""

WORDS = 2000
"""Of one scope."""


@dataclass(slots=True)
class _Known:
    pieces: int
    until: float
    df: dict[str, int] = field(default_factory=dict)


class Frequencies:
    """See the module. Scopes begin with their user, so nobody's counts are another's."""

    def __init__(self) -> None:
        self._scopes: OrderedDict[Hashable, _Known] = OrderedDict()

    def known(self, scope: Hashable, pieces: int, terms: Iterable[str]) -> dict[str, int]:
        """In how many pieces some of these words are.

        Args:
            pieces: that the scope has now.
        """
        known = self._scopes.get(scope)
        if known is None:
            return {}
        if time.monotonic() >= known.until or abs(pieces - known.pieces) > DRIFT * known.pieces:
            del self._scopes[scope]
            return {}
        self._scopes.move_to_end(scope)
        share = pieces / known.pieces
        return {term: min(pieces, round(known.df[term] * share)) for term in terms if term in known.df}

    def learn(self, scope: Hashable, pieces: int, counted: Mapping[str, int]) -> None:
        """Remember what was counted, as far as it is common."""
        common = {term: n for term, n in counted.items() if n >= COMMON}
        if not common:
            return
        known = self._scopes.setdefault(scope, _Known(pieces, time.monotonic() + SECONDS))
        for term, n in common.items():
            if len(known.df) < WORDS:
                known.df[term] = n
        if len(self._scopes) > SCOPES:
            self._scopes.popitem(last=False)
