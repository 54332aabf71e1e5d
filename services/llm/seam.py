"""Where an answer that was cut goes on: the rest must not begin with what is there already.

A model that is asked to go on often says its last words again first. The seam holds back the beginning of the rest for as
long as it may still be such a repeat, and then drops the repeated part. Most continuations differ in their first character,
and wait for nothing.
"""

from __future__ import annotations

REACH = 600
"""Characters of the text before that a rest may repeat."""

LEAST = 2
"""A repeat of one character is more often the language's own (看|看)."""


class Seam:
    """Joins one rest to one text.

    Args:
        before: the text that was cut.
        least: characters that a repeat has at least; endpoints that continue the answer itself repeat less easily.
    """

    def __init__(self, before: str, least: int = LEAST) -> None:
        self._tail = before[-REACH:]
        self._least = least
        self._held = ""
        self._open = bool(before)

    @property
    def closed(self) -> bool:
        """Whether everything passes from now on."""
        return not self._open

    def feed(self, text: str) -> str:
        """Take a piece of the rest.

        Returns:
            What may be said now.
        """
        if not self._open:
            return text
        self._held += text
        if self._held in self._tail:
            return ""  # it may still turn out to be a repeat that reaches the end
        return self._decide()

    def close(self) -> str:
        """The rest has ended.

        Returns:
            What was held back and is no repeat.
        """
        return self._decide() if self._open else ""

    def _decide(self) -> str:
        self._open = False
        held, self._held = self._held, ""
        for size in range(min(len(held), len(self._tail)), self._least - 1, -1):
            # 哈哈|哈哈: the same character again and again is meant so.
            if self._tail.endswith(held[:size]) and len(set(held[:size])) > 1:
                return held[size:]
        return held
