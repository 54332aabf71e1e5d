"""The sensitive-word gate: finds the words of a list in a text that comes in any pieces.

An automaton (Aho and Corasick, "Efficient string matching", 1975) reads each character once, however many words there are. Its
state says how much of the text could still become a word: that much is held back, less than the longest word, and nothing more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .gate import NewGate, Stopped

Action = Literal["mask", "stop"]

MASK = "*"
"""What a character of a word is replaced by."""


class WordList:
    """The automaton of a list. Built once, shared by all gates.

    Words match regardless of the case of Latin letters. Of words that overlap, the one that ends first counts.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = sorted({_fold(word.strip()) for word in words} - {""})
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


def _fold(text: str) -> str:
    """Lower the case, character by character: the length must not change (İ becomes two)."""
    folded = text.lower()
    return folded if len(folded) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


class WordGate:
    """See `gate.Gate`. Words are masked, or end the text.

    Args:
        words: the list.
        action: `mask` replaces each character of a word; `stop` ends the text before the word.
    """

    def __init__(self, words: WordList, action: Action) -> None:
        self._words = words
        self._action = action
        self._state = 0
        self._held = ""
        self.hits = 0

    def feed(self, text: str) -> str:
        """See `gate.Gate.feed`."""
        words, state = self._words, self._state
        held = self._held + text
        start = len(self._held)
        for i, char in enumerate(_fold(text), start):
            state = words.step(state, char)
            size = words.found[state]
            if size:
                self.hits += 1
                begin = i + 1 - size
                if self._action == "stop":
                    self._state, self._held = 0, ""
                    raise Stopped(held[:begin])
                held = held[:begin] + MASK * size + held[i + 1 :]
                state = 0  # what is masked begins no other word
        keep = words.depth[state]
        self._state = state
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def close(self) -> str:
        """See `gate.Gate.close`."""
        held, self._held, self._state = self._held, "", 0
        return held


def word_gate(words: WordList, action: Action) -> NewGate | None:
    """What makes gates of this list; None: the list is empty."""
    return (lambda: WordGate(words, action)) if words.words else None
