"""The places of a piece that answer a query, as plain text with marks."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from services.llm.graphemes import graphemes, is_plain

from .terms import fold

OPEN, CLOSE = "\u27e6", "\u27e7"
"""⟦ and ⟧ stand around what matched. Plain text needs marks that nothing else is: * and < have meanings elsewhere, 【】 and
「」 are what novels themselves use. A text's own ⟦⟧ are shown as 〚〛, so that every ⟦ has its ⟧."""

_OWN = str.maketrans({OPEN: "\u301a", CLOSE: "\u301b"})

MOST = 3

SPAN = 60
"""Characters between the first and the last match of one highlight."""

CONTEXT = 20
"""Characters on either side, less where a sentence begins or ends."""

_BREAK = re.compile(r"[。！？!?；;\n]+[”’」』）)\"]*")


_fold = lru_cache(maxsize=8192)(fold)
"""Of single characters."""


@dataclass(frozen=True, slots=True)
class _Match:
    start: int
    end: int
    terms: frozenset[str]


def highlights(text: str, weights: Mapping[str, float], most: int = MOST) -> list[str]:
    """Cut out the places of a text that hold most of a query, the best first.

    Without its marks each is a part of the text (but for the text's own ⟦⟧), cut between characters. Places that would overlap
    are one. Single characters are marked only where the text has no longer term of the query.

    Args:
        weights: the query's terms and what each tells (`ranking.Statistics.weights`).
        most: how many at most.
    """
    matches = _matches(Folded(text), weights)
    chosen: list[list[_Match]] = []
    left = matches
    while left and len(chosen) < most:
        best = max(_groups(left), key=lambda group: (_weight(group, weights), group[0].start - group[-1].end))
        chosen.append(best)
        left = [match for match in left if match not in best]
    return [_marked(text, start, end, matches) for start, end in _joined(text, chosen)]


class Folded:
    """A text as terms see it, and where each of its characters stands in the text."""

    def __init__(self, text: str) -> None:
        self.starts: Sequence[int] = range(len(text))
        self.ends: Sequence[int] = range(1, len(text) + 1)
        self.text = fold(text)
        # Nothing in a plain text joins what stands beside it, so as many characters are the same ones.
        if not is_plain(text) or len(self.text) != len(text):
            self._one_by_one(text)

    def _one_by_one(self, text: str) -> None:
        folded: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for one in graphemes(text):
            changed = _fold(one)
            folded.append(changed)
            starts += [at] * len(changed)
            ends += [at + len(one)] * len(changed)
            at += len(one)
        self.text, self.starts, self.ends = "".join(folded), starts, ends


def _matches(folded: Folded, weights: Mapping[str, float]) -> list[_Match]:
    """Where terms stand; what overlaps or touches is one."""
    places = sorted(_places(folded.text, [term for term in weights if len(term) > 1]))
    places = places or sorted(_places(folded.text, weights))
    found: list[_Match] = []
    for at, behind, term in places:
        start, end = folded.starts[at], folded.ends[behind - 1]
        if found and start <= found[-1].end:
            last = found.pop()
            found.append(_Match(last.start, max(end, last.end), last.terms | {term}))
        else:
            found.append(_Match(start, end, frozenset((term,))))
    return found


def _places(text: str, terms: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    for term in terms:
        at = text.find(term) if term else -1
        while at >= 0:
            yield at, at + len(term), term
            at = text.find(term, at + 1)


def _groups(matches: list[_Match]) -> Iterator[list[_Match]]:
    """From each match on, what fits into one highlight."""
    for i, first in enumerate(matches):
        last = i + 1
        while last < len(matches) and matches[last].end - first.start <= SPAN:
            last += 1
        yield matches[i:last]


def _weight(group: list[_Match], weights: Mapping[str, float]) -> float:
    return sum(weights[term] for term in frozenset().union(*(match.terms for match in group)))


def _joined(text: str, chosen: list[list[_Match]]) -> list[tuple[int, int]]:
    """Where each group and what is around it stands, in the order of the groups; what overlaps is one, as good as the better."""
    borders: Sequence[int] = range(len(text) + 1)
    if not is_plain(text):
        borders = [0, *accumulate(len(one) for one in graphemes(text))]
    ranked = sorted((*_around(text, borders, group), rank) for rank, group in enumerate(chosen))
    merged: list[tuple[int, int, int]] = []
    for start, end, rank in ranked:
        if merged and start < merged[-1][1]:
            before = merged.pop()
            merged.append((before[0], max(end, before[1]), min(rank, before[2])))
        else:
            merged.append((start, end, rank))
    return [(start, end) for start, end, _ in sorted(merged, key=lambda one: one[2])]


def _around(text: str, borders: Sequence[int], group: list[_Match]) -> tuple[int, int]:
    """A highlight's start and end: the sentence's, or `CONTEXT` characters from the first and the last match."""
    first, last = group[0].start, group[-1].end
    i = max(0, bisect_left(borders, first) - CONTEXT)
    j = min(len(borders) - 1, bisect_left(borders, last) + CONTEXT)
    breaks = [match.end() for match in _BREAK.finditer(text, borders[i], first)]
    i = bisect_left(borders, breaks[-1]) if breaks else i
    if following := _BREAK.search(text, last, borders[j]):
        j = bisect_left(borders, following.end())
    while borders[i] < first and text[borders[i] : borders[i + 1]].isspace():
        i += 1
    while borders[j] > last and text[borders[j - 1] : borders[j]].isspace():
        j -= 1
    return borders[i], borders[j]


def _marked(text: str, start: int, end: int, matches: list[_Match]) -> str:
    """text[start:end] with marks around every match in it, also around those that were not what it was chosen for."""
    parts: list[str] = []
    at = start
    for match in (one for one in matches if start <= one.start and one.end <= end):
        parts += [text[at : match.start].translate(_OWN), OPEN, text[match.start : match.end].translate(_OWN), CLOSE]
        at = match.end
    return "".join([*parts, text[at:end].translate(_OWN)])
