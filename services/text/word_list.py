"""A list of words as an automaton that finds them in one pass (Aho and Corasick, "Efficient string matching", 1975)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path


class WordList:
    """The automaton of a list. Built once, shared by all gates.

    Words match regardless of the case of Latin letters. Of words that overlap, the one that ends first counts.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = sorted({fold(word.strip()) for word in words} - {""})
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self.depth = [0]
        """By state: how many of the last characters may still become a word."""
        self.found = [0]
        """By state: the length of the longest word that ends here; 0: none does."""
        for word in self.words:
            self._add(word)
        self._link()

    def __repr__(self) -> str:
        return f"<WordList of {len(self.words)} words>"

    @classmethod
    def read(cls, path: Path) -> WordList:
        """Read a list: UTF-8, a word a line; empty lines and lines that begin with # are read over.

        Raises:
            OSError, UnicodeDecodeError: the file cannot be read.
        """
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return cls(line for line in lines if not line.lstrip().startswith("#"))

    def _add(self, word: str) -> None:
        state = 0
        for char in word:
            after = self._next[state].get(char)
            if after is None:
                after = len(self._next)
                self._next[state][char] = after
                self._next.append({})
                self._fail.append(0)
                self.depth.append(self.depth[state] + 1)
                self.found.append(0)
            state = after
        self.found[state] = len(word)

    def _link(self) -> None:
        unlinked = deque(self._next[0].values())
        while unlinked:
            state = unlinked.popleft()
            for char, after in self._next[state].items():
                unlinked.append(after)
                self._fail[after] = self.step(self._fail[state], char) if state else 0
                self.found[after] = self.found[after] or self.found[self._fail[after]]

    def step(self, state: int, char: str) -> int:
        """The state after one more character (folded by `fold`)."""
        while True:
            after = self._next[state].get(char)
            if after is not None:
                return after
            if not state:
                return 0
            state = self._fail[state]

    def ending(self, state: int) -> Iterator[int]:
        """All words that end at a state, the longest first: each by its own state, whose `depth` is the word's length."""
        while state:
            if self.found[state] == self.depth[state]:
                yield state
            state = self._fail[state] if self.found[self._fail[state]] else 0

    def state_of(self, word: str) -> int:
        """The own state of a word of the list (folded by `fold`)."""
        state = 0
        for char in word:
            state = self._next[state][char]
        return state


def fold(text: str) -> str:
    """Lower the case, character by character: the length must not change (İ becomes two)."""
    folded = text.lower()
    return folded if len(folded) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
