"""Quotations from a user's text: short, on one line, and with nothing in them that could turn the answer around them."""

from __future__ import annotations

import re

from services.llm.graphemes import clip

_SPACE = re.compile(r"\s+")
_UNQUOTABLE = re.compile("[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""Controls, invisible spaces, marks that reverse the direction of writing, half characters."""

_ENDS = ("。", "！", "？", "!", "?", ".", "…")
_BEFORE_CLOSING = frozenset("。！？…，—.!?,")
_TO_INNER = str.maketrans("“”", "‘’")


def tidy(text: str, limit: int, mark: str) -> str:
    """Put the beginning of a text on one line, at most that many characters, with a mark where it was cut."""
    # A sentence may be a megabyte long; sixteen code points for each character are more than any real text needs.
    cleaned = _UNQUOTABLE.sub("", _SPACE.sub(" ", text[: 16 * limit])).strip()
    kept = clip(cleaned, limit, mark)
    return kept + mark if kept == cleaned and len(text) > 16 * limit else kept


def quote_chinese(text: str, limit: int = 36) -> str:
    """Quote a sentence in “ ”, and end the quoting sentence: with the quotation's own mark, or with a 。 behind it."""
    text = _nested(tidy(text, limit, "……"))
    return f"“{text}”" if text.rstrip("’」』）").endswith(_ENDS) else f"“{text}”。"


def quote_english(text: str, limit: int = 72) -> str:
    """Quote a sentence in “ ”, and end the quoting sentence: with the quotation's own mark, or with a full stop behind it."""
    text = _nested(tidy(text, limit, "…"))
    return f"“{text}”" if text.rstrip("’)").endswith(_ENDS) else f"“{text}”."


def _nested(text: str) -> str:
    """Make the quotation marks of a text inner ones, and pairs.

    A sentence may be a part of what somebody says, and have one mark of a pair. At the edge that one is dropped: the
    quotation's own mark stands there. An opening one inside is closed at the end.
    """
    text = _curly(text)
    if "”" not in text:
        text = text.removeprefix("“")
    if "“" not in text:
        text = text.removesuffix("”")
    opened = 0
    for char in text:
        opened = max(0, opened + (char == "“") - (char == "”"))
    return text.translate(_TO_INNER) + "’" * opened


def _curly(text: str) -> str:
    """Turn straight double quotes into opening and closing ones, by turns. The first one closes if it follows a mark."""
    first = text.find('"')
    if first < 0:
        return text
    closes = text[first - 1 : first] in _BEFORE_CLOSING
    begin, *rest = text.split('"')
    return begin + "".join(("”" if closes == (n % 2 == 0) else "“") + part for n, part in enumerate(rest))
