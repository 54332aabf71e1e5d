"""The elements of a message: `<资料 名称="前文">…</资料>`, as agents write what they were given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MOST_ELEMENTS = 64

_OPENING = re.compile(r"<([^\s<>/]{1,20})( [^<>]{0,200})?>\n?")
_NAME = re.compile('="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Element:
    """One of them: message[start:end], marks included."""

    tag: str
    name: str
    """The value of its first attribute; empty without one."""
    text: str
    start: int
    end: int


def elements(text: str) -> Iterator[Element]:
    """Find the elements of a message, in order. Of one inside another the outer one counts."""
    at = 0
    for _ in range(MOST_ELEMENTS):
        opening = _OPENING.search(text, at)
        if opening is None:
            return
        end = text.find(f"</{opening[1]}>", opening.end())
        if end < 0:
            at = opening.end()
            continue
        at = end + len(opening[1]) + 3
        name = _NAME.search(opening[2] or "")
        inside = text[opening.end() : end].removesuffix("\n")
        yield Element(opening[1], name[1] if name else "", inside, opening.start(), at)
