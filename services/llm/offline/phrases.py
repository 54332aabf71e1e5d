"""Which phrase a text repeats most: at least four Chinese characters, or three English words, within one clause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from services.text.script import HAN, WORD, Language


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase, and how often it stands in the text without overlapping itself."""

    text: str
    count: int


_LEAST: dict[Language, int] = {"zh": 4, "en": 3}
"""Characters or words. Shorter phrases repeat in any text, and tell nothing: 的时候, of the."""

_MOST_GROWTH = 16
"""Units that a phrase may grow by. What is longer is a repeated passage, and its beginning names it well enough."""

_CANDIDATES = 12
"""So many of the most frequent ones are looked at closely, at a fraction of a millisecond each for a megabyte."""

_MOST_UNITS = 500_000
"""A longer text is not searched: it would take a second, and a hundred megabytes."""

_HAN_RUN = re.compile(f"[{HAN}]+")
_CLAUSE_END = re.compile(r"[.!?,;:()\[\]\"“”—…\n]+")
_WORD = re.compile(WORD)


def repeated_phrase(text: str, language: Language, names: tuple[str, ...] = ()) -> Phrase | None:
    """Find the phrase that stands most often, and at least twice; the first one of several.

    Args:
        text: the text. Half a million characters (words, in English) at most; None for more.
        language: what its phrases are made of, characters or words. Words count as they are written, capitals too.
        names: names in it. A phrase must be long enough without them, or the hero's name and a verb would be it.
    """
    clauses = _clauses(text, language)
    if sum(map(len, clauses)) > _MOST_UNITS:
        return None
    least = _LEAST[language]
    grams = Counter("".join(clause[i : i + least]) for clause in clauses for i in range(len(clause) - least + 1))
    whole = "\n".join("".join(clause) for clause in clauses)
    best: Phrase | None = None
    for gram, seen in grams.most_common(_CANDIDATES):
        if seen < 2 or (best and seen <= best.count):
            break
        phrase, count = _grown(gram, whole, language)
        if count >= 2 and (best is None or count > best.count) and _is_more_than_names(phrase, language, names):
            best = Phrase(_written(phrase, language), count)
    return best


def _clauses(text: str, language: Language) -> list[Sequence[str]]:
    """Cut a text into clauses, and those into units: characters, or words with a space on either side.

    The two spaces let words be searched for as substrings: ` a  b ` is in ` a  b  c `, and ` a ` is not in ` at `.
    """
    if language == "zh":
        return [run[0] for run in _HAN_RUN.finditer(text)]
    return [[f" {word[0]} " for word in _WORD.finditer(clause)] for clause in _CLAUSE_END.split(text)]


def _grown(phrase: str, whole: str, language: Language) -> tuple[str, int]:
    """Lengthen a phrase on both sides for as long as it stands there as often. The first place tells what may follow."""
    count = whole.count(phrase)
    for _ in range(_MOST_GROWTH):
        start = whole.find(phrase)
        end = start + len(phrase)
        if language == "zh":
            longer = [whole[start : end + 1], whole[max(0, start - 1) : end]]
        else:
            longer = [
                whole[start : whole.find(" ", end + 1) + 1],
                whole[max(0, whole.rfind(" ", 0, max(0, start - 1))) : end],
            ]
        phrase, before = next((one for one in longer if _is_as_frequent(one, phrase, count, whole)), phrase), phrase
        if phrase == before:
            break
    return phrase, count


def _is_as_frequent(longer: str, phrase: str, count: int, whole: str) -> bool:
    return len(longer) > len(phrase) and "\n" not in longer and whole.count(longer) == count


def _written(phrase: str, language: Language) -> str:
    return phrase if language == "zh" else " ".join(phrase.split())


def _is_more_than_names(phrase: str, language: Language, names: tuple[str, ...]) -> bool:
    """Whether enough of a phrase is left without the names in it."""
    for name in names:
        phrase = phrase.replace(name if language == "zh" else f" {name} ", "")
    return len(phrase if language == "zh" else phrase.split()) >= _LEAST[language]
