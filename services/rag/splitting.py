"""Cuts a document into pieces for search, where a reader would pause.

Chapters are never joined. Inside one, the end of a piece is looked for at the end of a paragraph, then of a sentence outside
quotations, then before a quotation that would fit whole into the next piece, then at a sentence's end inside a quotation, at a
comma, and at last between two characters.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.llm.graphemes import graphemes
from services.text import chapters
from services.text.quotes import passages

LONGEST_CHARACTER = 32
"""Code points that are kept together as one character: a letter with 30 marks is more than any language writes (UAX #15,
Stream-Safe Text Format), and without a bound one hostile character would be a piece of a megabyte."""

_CLOSING = "”’」』﹂﹄〞》〉）)】〕］\\]\"'"
_PARAGRAPH = re.compile("(?:\r\n|[\n\r\x0b\x0c\x85\u2028\u2029])+")
_SENTENCE = re.compile(
    f"(?:[。！？!?｡．‼⁇⁈⁉]+[{_CLOSING}]*|…+[{_CLOSING}]+|\\.+[{_CLOSING}]*(?=[ \t\u3000]))[。！？!?…{_CLOSING}]*[ \t\u3000]*"
)
_CLAUSE = re.compile(f"[，,；;：:、…—]+[{_CLOSING}]*[ \t\u3000]*")


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a document: document[start:end] == text."""

    index: int
    start: int
    end: int
    text: str


def split(text: str, target: int, overlap: int = 0) -> list[Piece]:
    """Cut a text into pieces that cover it, in order. Linear in the text.

    Args:
        target: the longest piece, code points. Only a single character (letter, marks and all) may be longer.
        overlap: a piece begins at most so many code points before the end of the one before it, with a whole sentence
            if one is short enough; 0 between chapters. At most half the target.

    Raises:
        ValueError: target or overlap out of range.
    """
    if target < 1 or not 0 <= overlap <= target // 2:
        raise ValueError(f"target {target} must be at least 1, and overlap {overlap} between 0 and half of it")
    if not text:
        return []
    borders = _Borders(text)
    spans = [span for start, end in _sections(text) for span in _cut(borders, start, end, target, overlap)]
    return [Piece(i, start, end, text[start:end]) for i, (start, end) in enumerate(spans)]


def _sections(text: str) -> Iterator[tuple[int, int]]:
    """From heading to heading. A heading with nothing below it (a volume's) stays with what follows."""
    start = 0
    bare = False
    for chapter in chapters.split(text):
        if chapter.start > start and text[start : chapter.start].strip() and not bare:
            yield start, chapter.start
            start = chapter.start
        bare = not text[chapter.body : chapter.end].strip()
    yield start, len(text)


class _Borders:
    """Where a text may be cut, by kind; each kind in order."""

    def __init__(self, text: str) -> None:
        quoted = [(one.start, one.end) for one in passages(text) if one.closed]
        opens = [start for start, _ in quoted]

        def is_quoted(at: int) -> bool:
            i = bisect_right(opens, at) - 1
            return i >= 0 and at <= quoted[i][1]

        sentences = [match.end() for match in _SENTENCE.finditer(text)]
        self.quotations = [(start - 1, end + 1) for start, end in quoted]
        self.paragraphs = [match.end() for match in _PARAGRAPH.finditer(text)]
        self.sentences = [at for at in sentences if not is_quoted(at)]
        self.inner_sentences = [at for at in sentences if is_quoted(at)]
        self.clauses = [match.end() for match in _CLAUSE.finditer(text)]
        self.inside = _inside_characters(text)
        for kind in (self.paragraphs, self.sentences, self.inner_sentences, self.clauses):
            kind[:] = [at for at in kind if at not in self.inside]
        self.quotations = [(start, end) for start, end in self.quotations if start not in self.inside]

    def quotation_at(self, at: int) -> tuple[int, int] | None:
        """The quotation, marks included, that a cut would break."""
        i = bisect_left(self.quotations, (at,)) - 1
        if i >= 0 and self.quotations[i][0] < at < self.quotations[i][1]:
            return self.quotations[i]
        return None

    def character(self, at: int, step: int) -> int:
        """The nearest place between two characters, going that way."""
        while at in self.inside:
            at += step
        return at


def _inside_characters(text: str) -> frozenset[int]:
    """Places between two code points of one character."""
    inside: set[int] = set()
    at = 0
    for line in text.split("\n"):  # nothing joins across a line's end but \r\n
        bare = line.removesuffix("\r")
        for one in graphemes(bare):
            if len(one) > 1:
                inside.update(at + i for i in range(1, len(one)) if i % LONGEST_CHARACTER)
            at += len(one)
        if line != bare:
            at += 1
            inside.add(at)
        at += 1
    inside.discard(len(text))
    return frozenset(inside)


def _last(kind: Sequence[int], low: int, high: int) -> int:
    """The last border in (low, high]; 0: none."""
    i = bisect_right(kind, high) - 1
    return kind[i] if i >= 0 and kind[i] > low else 0


def _first(kind: Sequence[int], low: int, high: int) -> int:
    """The first border in [low, high); `high`: none."""
    i = bisect_left(kind, low)
    return kind[i] if i < len(kind) and kind[i] < high else high


def _cut(borders: _Borders, start: int, end: int, target: int, overlap: int) -> Iterator[tuple[int, int]]:
    while end - start > target:
        # Behind `start + overlap`, so that the next piece begins behind this start and ends behind this end.
        at = _end(borders, start, start + overlap, target)
        if at >= end:
            break
        yield start, at
        start = _start(borders, at, overlap)
    yield start, end


def _end(borders: _Borders, start: int, low: int, target: int) -> int:
    """Where the piece that begins at `start` ends: behind `low`, at most `target` further than `start` if that is possible."""
    high, half = start + target, max(low, start + target // 2)
    outside = (borders.paragraphs, borders.sentences)
    for kind in outside:
        if at := _last(kind, half, high):
            return at
    quotation = borders.quotation_at(high)
    if quotation and quotation[0] > low and quotation[1] - quotation[0] <= target:
        return quotation[0]
    for kind in (borders.inner_sentences, borders.clauses):
        if at := _last(kind, half, high):
            return at
    at = borders.character(high, -1)
    return at if at > low else borders.character(high, 1)


def _start(borders: _Borders, end: int, overlap: int) -> int:
    """Where the piece behind one that ends at `end` begins."""
    low = end - overlap
    for kind in (borders.paragraphs, borders.sentences, borders.inner_sentences, borders.clauses):
        if (at := _first(kind, low, end)) < end:
            return at
    return min(end, borders.character(low, 1))
