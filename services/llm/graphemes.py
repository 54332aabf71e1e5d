"""Characters as a reader sees them: a letter with its accents, an emoji with its skin tone and joined parts, a flag.

Close to UAX #29, without its tables: categories and a few ranges decide what belongs to the character before it. Meant for
short texts (an answer, a quotation), at about half a microsecond for each code point.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from unicodedata import category

_ZWJ = "\u200d"
_MARKS = frozenset({"Mn", "Mc", "Me"})


_PLAIN = re.compile(
    "[\u0000-\u000c\u000e-\u02ff\u2010-\u2027\u2030-\u205e\u2500-\u257f\u3000-\u3029\u3030-\u3098\u309b-\u9fff\uff00-\uff9d]*"
)
"""Text in which every code point is a character: what most answers are made of."""


def _extends(char: str) -> bool:
    """Whether a code point belongs to the character before it."""
    return (
        category(char) in _MARKS
        or char in "\u200c\u200d"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
        or "\U000e0020" <= char <= "\U000e007f"
    )


def _is_regional(char: str) -> bool:
    """Whether a code point is half a flag."""
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _is_jamo_tail(char: str) -> bool:
    """Whether a code point is a vowel or a final of a Korean syllable that is spelt in parts."""
    return "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7fb"


def is_plain(text: str) -> bool:
    """Whether every code point is a character, by the look of it: False may be too careful."""
    return _PLAIN.fullmatch(text) is not None


def graphemes(text: str) -> Iterator[str]:
    """Cut a text into characters. Joined, they are the text."""
    if is_plain(text):
        yield from text
        return
    start = 0
    flags = 0
    for i in range(1, len(text)):
        before, char = text[i - 1], text[i]
        flags = flags + 1 if _is_regional(before) else 0
        if before < "\u0300" and char < "\u0300":  # nothing below it joins, but for one pair
            joined = before == "\r" and char == "\n"
        else:
            joined = (
                (_extends(char) and before not in "\r\n")
                or (before == _ZWJ and char not in "\r\n")
                or (_is_regional(char) and flags % 2 == 1)
                or (_is_jamo_tail(char) and ("\u1100" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7fb"))
            )
        if not joined:
            yield text[start:i]
            start = i
    if text:
        yield text[start:]


def clip(text: str, limit: int, mark: str) -> str:
    """Shorten a text to that many characters, with a mark where it was cut.

    A character may be long (an accent on an accent on an accent), so at most eight times as many code points are kept.
    """
    kept: list[str] = []
    size = 0
    # The slice is for the time it takes: the text may be a sentence of a megabyte.
    for one in graphemes(text[: 8 * limit + 1]):
        size += len(one)
        if len(kept) == limit or size > 8 * limit:
            return "".join(kept) + mark
        kept.append(one)
    return text
