"""Finds the words of a list in a text, also where they are written to escape it: 敏*感-词, 敏 感 词, Ｆ-ｏ-ｏ, 敏感詞.

Text and words are folded to one form, separators are read over, and one automaton finds all words in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from unicodedata import category, normalize

from services.text.script import INVISIBLE
from services.text.traditional import simplified
from services.text.word_list import WordList, fold

MOST_SEPARATORS = 4
"""That may stand between two characters of a word; behind more of them begins something else."""

_SEPARATOR = re.compile(f"[{INVISIBLE}\\-_*.·•・‧~^+=|/\\\\#@&'`\"$%￣—–…◆◇■□●○★☆※→]")
_LINE_END = frozenset("\n\r\u2028\u2029\x0b\x0c")
_LATIN = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Hit:
    """A word in a text: text[start:end]."""

    word: str
    """As the list has it."""
    start: int
    end: int
    exact: bool
    """Whether it is written as in the list, letter case aside."""


class WordFinder:
    """A list of words, made ready. Built once, used for any number of texts."""

    def __init__(self, words: Iterable[str]) -> None:
        self._listed: dict[str, str] = {}
        for word in words:
            if folded := _folded(word):
                self._listed.setdefault(folded, word.strip())
        self._words = WordList(self._listed)
        self._by_state = {
            self._words.state_of(fold(folded.strip())): (word, _LATIN.fullmatch(folded) is not None)
            for folded, word in self._listed.items()
        }
        """By the automaton's state: the word as listed, and whether it is one of Latin letters."""

    def __len__(self) -> int:
        return len(self._listed)

    def find(self, text: str) -> list[Hit]:
        """Find the words, in order. Of hits that overlap, the one that begins first is given; of those, the longest."""
        found: list[Hit] = []
        taken = 0
        for hit in sorted(self._all(text), key=lambda hit: (hit.start, -hit.end)):
            if hit.start >= taken:
                found.append(hit)
                taken = hit.end
        return found

    def _all(self, text: str) -> Iterator[Hit]:
        """Every hit, by where it ends."""
        places: list[int] = []
        """Where in the text each character stands that the automaton has read."""
        state = separators = 0
        for at, char in enumerate(text):
            plain = _fold_char(char)
            if not plain:
                separators += 1
                if separators > MOST_SEPARATORS or char in _LINE_END:
                    state = 0
                continue
            separators = 0
            for one in plain:  # ㎏ is two
                places.append(at)
                state = self._words.step(state, one)
            # Only here: a word that ends in the middle of ㎏ is none.
            for own in self._words.ending(state) if self._words.found[state] else ():
                hit = self._hit(text, places, at + 1, own)
                if hit is not None:
                    yield hit

    def _hit(self, text: str, places: Sequence[int], end: int, own: int) -> Hit | None:
        """Look at one place where the characters of a word stand, without reading it again: it may be at each character."""
        size = self._words.depth[own]
        start = places[-size]
        if len(places) > size and places[-size - 1] == start:  # it begins in the middle of ㎏
            return None
        word, is_latin = self._by_state[own]
        if is_latin and not _stands_alone(text, start, end, size):
            return None
        return Hit(word, start, end, exact=text[start:end].lower() == word.lower())


def _stands_alone(text: str, start: int, end: int, size: int) -> bool:
    """Whether Latin letters are a word: not part of a longer one (ass in class), and not two ends of others (as s…).

    With separators inside, each letter must have some: f-u-n is meant as a word, "of un" is not.
    """
    if _is_latin(text[start - 1 : start]) or _is_latin(text[end : end + 1]):
        return False
    if end - start == size:
        return True
    pieces = [piece for piece in _SEPARATOR.split(text[start:end]) if piece]
    return len(pieces) in (1, size)


def _is_latin(char: str) -> bool:
    return bool(char) and _LATIN.fullmatch(_fold_char(char)) is not None


def _folded(text: str) -> str:
    return "".join(map(_fold_char, text))


def _fold_char(char: str) -> str:
    """One character in the form that is compared: half-width, lower case, simplified; empty for a separator."""
    if "\u4e00" <= char <= "\u9fff":
        return simplified(char)
    if "a" <= char <= "z":
        return char
    if _SEPARATOR.match(char) or category(char) in ("Mn", "Me", "Cf"):
        return ""
    plain = normalize("NFKC", char)
    plain = "".join(one for one in plain if not _SEPARATOR.match(one) and category(one) not in ("Mn", "Me", "Cf"))
    return simplified(plain).lower()
