"""What can be counted in a text exactly: 字数, sentences, quoted speech.

Everything here takes time linear in the text, whatever the text: each regex either cannot backtrack (possessive
quantifiers) or cannot start again inside what it has just refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .script import CJK, EMOJI, INVISIBLE, WIDE_MARK, WORD


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of what a text has."""

    cjk: int = 0
    """Chinese characters; kana and hangul count with them."""
    marks: int = 0
    """Full-width punctuation marks: …… and —— are two each."""
    words: int = 0
    """Words and numbers of other scripts."""
    emoji: int = 0
    symbols: int = 0
    """Everything else that leaves ink, half-width punctuation above all."""

    @property
    def zi(self) -> int:
        """字数 as web-novel platforms count it.

        Each CJK character and each full-width mark is one, a run of Latin letters or digits is one. Spaces, half-width
        punctuation and emoji are none.
        """
        return self.cjk + self.marks + self.words


_UNIT = re.compile(f"([{CJK}]++)|([{WIDE_MARK}]++)|({EMOJI})|({WORD})|([!-/:-@\\[-`{{-~]++|[^{INVISIBLE}])")


def count(text: str) -> Counts:
    """Count a text."""
    cjk = marks = emoji = words = symbols = 0
    for unit in _UNIT.finditer(text):
        match unit.lastindex:
            case 1:
                cjk += unit.end() - unit.start()
            case 2:
                marks += unit.end() - unit.start()
            case 3:
                emoji += 1
            case 4:
                words += 1
            case _:
                symbols += unit.end() - unit.start()
    return Counts(cjk, marks, words, emoji, symbols)


def count_paragraphs(text: str) -> int:
    """Count the lines that have anything on them."""
    return sum(1 for line in text.splitlines() if _INK.search(line))


_INK = re.compile(f"[^{INVISIBLE}]")
_HAS_WORD = re.compile(r"[^\W_]")

_CLOSERS = r"”’」』）】》〉)\]"
_SENTENCE_END = re.compile(
    rf"""
    (?= [。！？!?….\n] )  # one look settles most characters
    (?:
      [。！？] [。！？!?…]*+ [{_CLOSERS}]*+  # closing quotes stay with what they close
    | (?<! [。！？!?…] ) [!?]++ [。！？!?…]*+ (?! [A-Za-z0-9_=&/] ) [{_CLOSERS}]*+ (?: '(?=\s|\Z) )?+  # not in an address
    | (?<! … ) …++ (?: [{_CLOSERS}]++ | (?= [ \t\u3000]*+ (?:\n|\Z) ) )  # elsewhere, it is a pause within a sentence
    | (?<! \. ) \.{{2,}}+ (?= [{_CLOSERS}"']*+ [ \t]*+ (?:\n|\Z) ) [{_CLOSERS}']*+
    | (?<!\.) (?<!\b[A-HJ-Z]) (?<!\bMr) (?<!\bMrs) (?<!\bMs) (?<!\bDr) (?<!\bSt) (?<!\be\.g) (?<!\bi\.e)
      \. (?= [{_CLOSERS}"']*+ (?:\s|\Z) ) [{_CLOSERS}']*+
    | \n (?! [ \t]*+ [a-z] )  # a line end, but not inside hard-wrapped English
    )
    """,
    re.VERBOSE,
)


def sentences(text: str) -> list[str]:
    """Split a text into sentences.

    A sentence ends at 。！？!?, at an English full stop, at an ellipsis before a closing quote or a line end, and at a line
    end. Closing quotes belong to it. What has no letter or digit (a line of ……) is no sentence.
    """
    found: list[str] = []
    start = 0
    straight = 0  # straight quotes seen in this line: only after an odd number does the next one close

    def add(end: int) -> None:
        piece = text[start:end].strip()
        if _HAS_WORD.search(piece):
            found.append(piece)

    for mark in _SENTENCE_END.finditer(text):
        end = mark.end()
        if end <= start:
            continue
        straight += text.count('"', start, end)
        if straight % 2 and text.startswith('"', end):
            end += 1
            straight += 1
        add(end)
        start = end
        if mark[0] == "\n":
            straight = 0
    add(len(text))
    return found


_QUOTED = re.compile(r'“([^”\n]*+)|「([^」\n]*+)|『([^』\n]*+)|"([^"\n]*+)"')


@dataclass(frozen=True, slots=True)
class Speech:
    """What stands between quotation marks."""

    passages: int
    counts: Counts


def speech(text: str) -> Speech:
    """Find the quoted passages: “ ”, 「 」, 『 』 and " ", each within one line.

    A passage that is never closed lasts to the end of its line, but for straight quotes: those are also inches.
    Marks inside a passage are part of it, the outer quotation marks are not.
    """
    passages = [passage for m in _QUOTED.finditer(text) if (passage := m[m.lastindex or 0])]
    return Speech(len(passages), count("\n".join(passages)))


def dialogue_share(text: str) -> float:
    """Compute which part of a text's 字数 (words, in English) is quoted, from 0 to 1. A text without any has 0."""
    whole = count(text).zi
    return speech(text).counts.zi / whole if whole else 0.0
