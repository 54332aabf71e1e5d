"""Where the chapters of a novel begin: headings on lines of their own, and what is wrong with their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .numerals import LONGEST, NUMERAL, value_of
from .script import INVISIBLE

Kind = Literal["front", "volume", "chapter", "section", "prologue", "extra", "epilogue"]
"""front: what stands before the first heading."""

VOLUME, CHAPTER, SECTION = "卷部集篇", "章回", "节節"

LONGEST_HEADING = 60
"""Characters of a heading's line; a longer one is a sentence."""

LONGEST_BARE_TITLE = 20
"""Characters of a title that follows 第三章 without a space."""

_GAP = r"[ \t\u3000\u00a0]"
_NUMERAL = f"[{NUMERAL}]{{1,{LONGEST}}}"
_BREAK = f"(?:{_GAP}*[:：、.．·\\-—–]+|{_GAP}+)"
"""What stands between a number and a title."""

_OPENS = f"(?:{_GAP}|[#*【\\[〖《=~～\\-—◆■★☆●])*"
_HEADING = re.compile(
    f"{_OPENS}(?:(?P<above>(?:正文|第{_GAP}*{_NUMERAL}{_GAP}*[{VOLUME}][^，。！？；]{{0,20}}?){_GAP}+)(?=第))?"
    f"(?:第{_GAP}*(?P<number>{_NUMERAL}){_GAP}*(?P<unit>[{VOLUME}{CHAPTER}{SECTION}])|卷{_GAP}*(?P<volume>{_NUMERAL})(?!{_GAP}*[{NUMERAL}]))"
    r"(?P<rest>.*)"
)
_NAMED: tuple[tuple[Kind, str], ...] = (
    ("prologue", "楔子|序章|序言|自序|前言|引子|引言|序幕|序"),
    ("epilogue", "尾声|尾聲|后记|後記|终章|終章|大结局|大結局|完本感言|完结感言|跋"),
    ("extra", "番外篇?|外传|外傳"),
)
_NAMED_HEADING = re.compile(
    f"{_OPENS}(?:" + "|".join(f"(?P<{kind}>{words})" for kind, words in _NAMED) + ")(?P<rest>.*)"
)
_AFTER_NAME = re.compile(f"(?:之|{_BREAK})?(?P<number>{_NUMERAL})?(?P<rest>(?:{_BREAK}|[（(《「【]).*)?$")
_CLOSES = " \t\u3000\u00a0】]〗》*=~～-—#◆■★☆●"
_ENDS_SENTENCE = re.compile(r"[。；，,;]|[！？!?…]$")
_TITLE_IS_SENTENCE = re.compile(r"[。；;]|，.*，|[：:]$|[，,]$")
_INK = re.compile(f"[^{INVISIBLE}]")


@dataclass(frozen=True, slots=True)
class Chapter:
    """One piece of a text, from its heading to the next: text[start:end]."""

    kind: Kind
    unit: str
    """章, 回, 卷 …; empty for pieces without one."""
    number: int | None
    title: str
    start: int
    body: int
    """Where the line behind the heading begins."""
    end: int


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something about the numbers that should be looked at."""

    kind: Literal["gap", "duplicate", "backward"]
    unit: str
    number: int
    """The one that is missing (of several: the first), there twice, or too low."""
    last: int
    """The last one that is missing; otherwise the same."""
    at: int
    """Where the heading is at which it shows."""


def split(text: str) -> list[Chapter]:
    """Cut a text at its headings. The pieces follow each other without a gap up to the end of the text.

    What stands before the first heading is a piece if it leaves any ink; otherwise the text is cut from the first heading on.
    """
    heads = list(_headings(text))
    first = heads[0][0] if heads else len(text)
    found: list[Chapter] = []
    if _INK.search(text, 0, first):
        found.append(Chapter("front", "", None, "", 0, 0, first))
    for i, (start, end, kind, unit, number, title) in enumerate(heads):
        following = heads[i + 1][0] if i + 1 < len(heads) else len(text)
        found.append(Chapter(kind, unit, number, title, start, end, following))
    return found


def _headings(text: str) -> Iterator[tuple[int, int, Kind, str, int | None, str]]:
    start = 0
    for line in text.splitlines(keepends=True):
        end = start + len(line)
        heading = _heading(line.rstrip()) if len(line) <= 2 * LONGEST_HEADING else None
        if heading:
            yield start, end, *heading
        start = end


def _heading(line: str) -> tuple[Kind, str, int | None, str] | None:
    """Read a line as a heading; None: it is none."""
    if len(line) > LONGEST_HEADING:
        return None
    if match := _HEADING.fullmatch(line):
        number = value_of(match["number"] or match["volume"])
        unit = match["unit"] or "卷"
        title = _title(match["rest"], bare=unit in CHAPTER)
        if number is None or title is None:
            return None
        kind: Kind = "volume" if unit in VOLUME else "section" if unit in SECTION else "chapter"
        return kind, unit, number, title
    if match := _NAMED_HEADING.fullmatch(line):
        found = next(kind for kind, _ in _NAMED if match[kind])
        after = _AFTER_NAME.fullmatch(match["rest"].rstrip(_CLOSES))
        if after is None:
            return None
        title = _title(after["rest"] or "", bare=True)
        if title is None:
            return None
        if title[:1] in ("", "（", "("):  # 大结局（上）
            title = match[found] + title
        return found, "", value_of(after["number"]) if after["number"] else None, title
    return None


def _title(rest: str, *, bare: bool) -> str | None:
    """The title behind a number; empty: there is none. None: the line is part of a sentence.

    Args:
        bare: a title may follow without a space.
    """
    rest = rest.rstrip(_CLOSES)
    separated = re.match(_BREAK, rest)
    title = rest[separated.end() :].strip(_CLOSES) if separated else rest
    if not title:
        return ""
    if separated or title[0] in "（(《「【“":
        return None if _TITLE_IS_SENTENCE.search(title) else title
    if not bare or len(title) > LONGEST_BARE_TITLE or _ENDS_SENTENCE.search(title) or title[0] in _GOES_ON:
        return None
    return title


_GOES_ON = frozenset("合的里中是就了我他她你也都还已讲说写和与、到至之")
"""What makes a sentence of 第三回: 第三回合, 第三章里."""


def flaws(chapters: list[Chapter]) -> list[Flaw]:
    """Find numbers that are missing, there twice, or lower than the one before, unit by unit.

    The numbers may begin again with 1 behind a heading of a higher unit. What is missing before the first one is no flaw:
    the text may be a part of a novel.
    """
    found: list[Flaw] = []
    last: dict[str, int] = {}
    seen: dict[str, set[int]] = {}
    may_restart: set[str] = set()
    for chapter in chapters:
        unit, number = chapter.unit, chapter.number
        if not unit or number is None:
            continue
        rank = _rank(unit)
        may_restart |= {other for other in last if _rank(other) > rank}
        before = last.get(unit)
        if before is None or (number == 1 and unit in may_restart):
            before = 0
            seen[unit] = set()
        elif number in seen[unit]:
            found.append(Flaw("duplicate", unit, number, number, chapter.start))
        elif number < before:
            found.append(Flaw("backward", unit, number, number, chapter.start))
        elif number > before + 1:
            found.append(Flaw("gap", unit, before + 1, number - 1, chapter.start))
        may_restart.discard(unit)
        seen[unit].add(number)
        last[unit] = max(number, before)  # one chapter out of order makes no gap behind it
    return found


def _rank(unit: str) -> int:
    return 0 if unit in VOLUME else 1 if unit in CHAPTER else 2
