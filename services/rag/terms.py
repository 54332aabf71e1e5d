"""What a text is searched by: its words, its characters in ones and twos, and the names of its project.

Segmentation alone loses what its dictionary does not know, and a novel is full of that. Pairs of characters find any invented
name, single characters find old wording (a title's 泪 where the text has 眼泪), and words make what is a word weigh more than
what only stands side by side. What each adds is measured in docs/retrieval.md.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import add
from unicodedata import normalize

import rjieba

from services.text.traditional import simplified

MOST_QUERY_TERMS = 512
"""Terms of one query, so that a query of 10,000 characters costs what a long sentence does."""

MOST_NAMES = 2000
"""Names of one project."""

NAME_KEYS = ("names", "characters", "places", "sects", "人物", "地点", "门派")
"""Keys of a document's metadata whose values are names."""

_SHORTEST_NAME, _LONGEST_NAME = 2, 32

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_RUN = re.compile(f"[{_HAN}]+")
_OTHER_WORD = re.compile(f"[^\\W_{_HAN}]+")
_BETWEEN_NAMES = re.compile("[、，,;；|\r\n\t]+")
_CUT = "\n"


def fold(text: str) -> str:
    """Make equal what a searcher takes for equal: full-width and half-width, capitals, traditional and simplified characters.

    The length may change (ﬁ becomes fi). NFKC is that of Unicode Standard Annex #15.
    """
    return simplified(normalize("NFKC", text).casefold())


def terms(text: str, names: Iterable[str] = ()) -> list[str]:
    """Take a text apart into the terms that it is found by, with repeats; punctuation is dropped.

    Each Chinese character, each pair of neighbours, each word of two characters or more (so a word of two counts twice: as a
    pair and as a word), each name, each word of other letters or digits.

    Args:
        names: of the project, of two characters or more; matched before words are, the longest first.
    """
    folded = fold(text)
    runs = _HAN_RUN.findall(folded)
    found: list[str] = []
    rest = folded
    if dictionary := tuple(names):
        found, rest = _take_names(folded, dictionary)
    found += [word for word in _words(_HAN_RUN.findall(rest)) if len(word) > 1]
    for run in runs:
        found += run
        found += map("".join, itertools.pairwise(run))
    found += _OTHER_WORD.findall(folded)
    return found


def query_terms(query: str, names: Iterable[str] = ()) -> list[str]:
    """The different terms of a query, in their order: at most `MOST_QUERY_TERMS`, the rest is not looked for."""
    return list(dict.fromkeys(terms(query, names)))[:MOST_QUERY_TERMS]


def split_letters(text: str) -> list[str]:
    """Runs of Chinese characters, and words of other letters or digits, folded, each kind in its order."""
    folded = fold(text)
    return _HAN_RUN.findall(folded) + _OTHER_WORD.findall(folded)


def names_of(metadata: Mapping[str, str]) -> list[str]:
    """The names that a document's metadata brings into its project's dictionary, in their order, each once.

    A value under one of `NAME_KEYS` is a JSON list of strings, or names with 、，,;； or line ends between them. Names of
    one character would be found in every other word, and names of more than 32 are none: both are left out.
    """
    found = (fold(name.strip()) for key in NAME_KEYS for name in _listed(metadata.get(key, "")))
    usable = (name for name in found if _SHORTEST_NAME <= len(name) <= _LONGEST_NAME and _CUT not in name)
    return list(dict.fromkeys(usable))[:MOST_NAMES]


def _listed(value: str) -> Sequence[str]:
    if value.lstrip().startswith("["):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            pass
        else:
            return [one for one in read if isinstance(one, str)]
    return _BETWEEN_NAMES.split(value)


@lru_cache(maxsize=64)
def _by_head(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Names by their first two characters, the longest first: looking for 2000 costs no more than looking for one."""
    heads: dict[str, list[str]] = defaultdict(list)
    for name in sorted({fold(name) for name in names[:MOST_NAMES]}, key=lambda name: (-len(name), name)):
        if len(name) >= _SHORTEST_NAME:
            heads[name[:2]].append(name)
    return {head: tuple(found) for head, found in heads.items()}


def _take_names(text: str, names: tuple[str, ...]) -> tuple[list[str], str]:
    """The names in a text, and the text with a cut in place of each."""
    heads = _by_head(names)
    found: list[str] = []
    rest: list[str] = []
    behind = 0
    for at in [i for i, pair in enumerate(map(add, text, text[1:])) if pair in heads]:
        name = next((name for name in heads[text[at : at + 2]] if text.startswith(name, at)), "")
        if name and at >= behind:
            found.append(name)
            rest += [text[behind:at], _CUT]
            behind = at + len(name)
    return found, "".join([*rest, text[behind:]])


def _words(runs: Sequence[str]) -> list[str]:
    # One call for the whole text: a call for each run takes half as long again.
    return rjieba.cut(_CUT.join(runs)) if runs else []
