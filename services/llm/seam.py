"""Where an answer that was cut goes on: the rest must not begin with what is there already.

A model that is asked to go on often says its last words again first. The seam holds back the beginning of the rest for as
long as it may still be such a repeat, and then drops the repeated part. Most continuations differ in their first character,
and wait for nothing.
"""

from __future__ import annotations

REACH = 64 * 1024
"""Characters of the text before that a rest may repeat: some models begin their whole answer again."""

LEAST = 4
"""Chinese characters, or three times as many of other scripts, that a repeat has at least. Fewer are more often the language's
own (ban|ana, 看|看), and to delete a writer's text is worse than to show two characters twice."""


class Seam:
    """Joins one rest to one text.

    Args:
        before: the text that was cut.
        least: how long a repeat is at least, see `LEAST`; endpoints that continue the answer itself repeat less easily.
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
        for size in range(min(len(held), len(self._tail)), 0, -1):
            repeat = held[:size]
            if self._tail.endswith(repeat) and _weight(repeat) >= self._least and not _goes_round(repeat):
                return held[size:]
        return held


def _weight(text: str) -> float:
    """A text's length in Chinese characters."""
    return sum(1 if char > "\u2e7f" else 1 / 3 for char in text)


def _goes_round(text: str) -> bool:
    """Whether a text is a shorter one several times: 哈哈哈哈 and 一步一步 are meant so."""
    return text in (text + text)[1:-1]
