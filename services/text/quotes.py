"""Where somebody speaks: passages between “ ”, 「 」, 『 』 and straight quotes, with passages inside passages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

CLOSES = {"”": "“", "」": "「", "』": "『", "’": "‘", "﹂": "﹁", "﹄": "﹃", "〞": "〝"}
"""Which mark a closing one closes."""

OUTER = frozenset("“「『﹁﹃〝")
"""Marks that open a passage. ‘ does not: alone it is an apostrophe as often as not."""

_MARK = re.compile('[“”「」『』‘’﹁﹂﹃﹄〝〞"]')


@dataclass(frozen=True, slots=True)
class Passage:
    """What stands between a pair of outermost quotation marks: text[start:end], without the marks."""

    start: int
    end: int
    closed: bool
    """Whether the closing mark was found; otherwise the passage ends with its line."""


def passages(text: str) -> list[Passage]:
    """Find the outermost quoted passages, in order. Linear in the text.

    - A passage ends where its own mark closes, however many passages are inside it: 「他说『走』。」 is one, and so is
      “他说“走”。”.
    - A closing mark also closes what was left open inside.
    - A passage that is not closed ends with its line. A paragraph that goes on with an opening mark, as long speeches are
      printed, is a passage again.
    - A closing mark that nothing opened is read over. So is ‘ outside any passage.
    - Straight quotes open and close in turn within their line; an odd last one opens nothing. Inside other marks they
      are text, and other marks inside them are.
    """
    found: list[Passage] = []
    start = 0
    for line in text.split("\n"):
        found += [Passage(start + one.start, start + one.end, one.closed) for one in _in_line(line)]
        start += len(line) + 1
    return found


def _in_line(line: str) -> Iterator[Passage]:
    stack: list[str] = []
    start = 0
    last_straight = line.rfind('"')
    in_straight = False
    for match in _MARK.finditer(line):
        mark, at = match[0], match.start()
        if in_straight:
            if mark == '"':
                yield Passage(start, at, closed=True)
                in_straight = False
        elif mark == '"':
            if not stack and at < last_straight:
                start, in_straight = at + 1, True
        elif mark in CLOSES:
            opener = CLOSES[mark]
            if opener in stack:
                while stack.pop() != opener:
                    pass
                if not stack:
                    yield Passage(start, at, closed=True)
        elif stack or mark in OUTER:
            if not stack:
                start = at + 1
            stack.append(mark)
    if stack:
        yield Passage(start, len(line), closed=False)
