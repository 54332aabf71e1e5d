"""The sensitive-word gate: finds the words of a list in a text that comes in any pieces.

An automaton (Aho and Corasick, "Efficient string matching", 1975) reads each character once, however many words there are. Its
state says how much of the text could still become a word: that much is held back, less than the longest word, and nothing more.
"""

from __future__ import annotations

from typing import Literal

from services.text.word_list import WordList as WordList
from services.text.word_list import fold

from .gate import NewGate, Stopped

Action = Literal["mask", "stop"]

MASK = "*"
"""What a character of a word is replaced by."""


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
        for i, char in enumerate(fold(text), start):
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
