"""Who is named in a text. Rules, not a dictionary: a few names that are right are worth more than all that might be one.

Chinese: a surname, one or two characters behind it, and evidence around it. The place before it must be a border (a mark, or a
word such as 和), and so must the place behind it (a verb, a particle, a mark). Somebody who speaks or is introduced is believed
at first sight, anybody else must be seen twice. The rules miss people without a surname (师父, 艾琳). English: capitals inside
a sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from .name_lists import (
    CERTAIN_SURNAMES,
    COMPOUND_SURNAMES,
    DEEDS,
    ENDS_BEFORE_NAME,
    FOLLOWS_NAME,
    INTRODUCTIONS,
    JOINS_NAMES,
    MANNERS,
    NEVER_IN_NAMES,
    ORDINARY_WORDS,
    SURNAMES,
)
from .script import HAN, Language


@dataclass(frozen=True, slots=True)
class Name:
    """A name, and how often it stands in the text."""

    text: str
    count: int


@dataclass(slots=True)
class _Sight:
    """What was seen of a candidate."""

    seen: int = 0
    bordered: int = 0
    """Times with a border on both sides."""
    person: int = 0
    """Times, of those, that it speaks or is introduced."""
    certain: bool = False
    """Whether its surname alone says that it is a name: 欧阳."""

    @property
    def is_believed(self) -> bool:
        """Whether that is enough to call it a name."""
        return self.person > 0 or self.bordered >= 2 - self.certain or (self.seen >= 3 and self.bordered > 0)

    def always_follows(self, shorter: _Sight) -> bool:
        """Whether this one, a character longer, stands wherever the shorter one does, too often for chance."""
        return self.seen == shorter.seen >= 3


_MOST_PLACES = 30_000
"""Places that are looked at: as many as seven hundred thousand characters of a novel have. A text of surnames alone has more."""

_PLACE = re.compile(f"{COMPOUND_SURNAMES}|[{''.join(sorted(SURNAMES))}]")
_HAN = re.compile(f"[{HAN}]")
_DEED = re.compile(f"(?:(?:{MANNERS})+[声着]?)?(?:{DEEDS})")
_INTRODUCED = re.compile(f"(?:{INTRODUCTIONS})[是叫：:]?$")
_NO_SECOND = "冷怒苦嘶哑"
"""No second character of a given name, where a verb of speech stands behind: they say how it is done."""

_INTRODUCTION_REACH = 4
_DEED_REACH = 8

_MOST_NAMES = 24
"""More are not counted; each one costs a walk through the text."""


def chinese_names(text: str) -> list[Name]:
    """Find the people of a Chinese text, those named most often first; of equals, the first one."""
    return _counted(text, full_names(text)[:_MOST_NAMES], "zh")


def full_names(text: str) -> list[str]:
    """Find the names with a surname that the evidence speaks for, the best first. Also of people who are named once."""
    sights: dict[str, _Sight] = {}
    joined: dict[int, list[_Sight]] = {}
    for number, place in enumerate(_PLACE.finditer(text)):
        if number == _MOST_PLACES:
            break
        _look(text, place.start(), place.end(), sights, joined)
    # A list, not a set: the answer must not depend on a process's hash seed.
    believed = [name for name, sight in sights.items() if sight.is_believed]
    longer: dict[str, _Sight] = {}
    for name in believed:
        longer[name[:-1]] = max(sights[name], longer.get(name[:-1], sights[name]), key=lambda sight: sight.bordered)
    kept = [name for name in believed if not _has_better(sights[name], sights.get(name[:-1]), longer.get(name))]
    return sorted(kept, key=lambda name: -sights[name].bordered)


def _look(text: str, start: int, given: int, sights: dict[str, _Sight], joined: dict[int, list[_Sight]]) -> None:
    """Look at one place where a surname stands; the given name begins at `given`.

    `joined` keeps, for each 和 that may stand between two names, what was seen before it: 林远和苏念 vouch for each other.
    """
    if given - start == 1 and text[start : given + 1] in ORDINARY_WORDS:
        return
    before = text[start - 1 : start]
    introduced = _INTRODUCED.search(text[max(0, start - _INTRODUCTION_REACH) : start]) is not None
    opens = introduced or not before or before in ENDS_BEFORE_NAME or not _HAN.match(before)
    certain = text[start:given] in CERTAIN_SURNAMES
    acts = False
    for end in (given + 1, given + 2):
        last = text[end - 1 : end]
        if end == given + 2 and ((last in _NO_SECOND and acts) or (last == "之" and certain)):
            return  # 慕容复 who 冷笑, 司马昭 whose heart everybody knows
        if not last or last in NEVER_IN_NAMES or not _HAN.match(last):
            return
        sight = sights.setdefault(text[start:end], _Sight(certain=certain))
        sight.seen += 1
        behind = text[end : end + _DEED_REACH]
        acts = _DEED.match(behind) is not None
        closes = acts or not behind or behind[0] in FOLLOWS_NAME or not _HAN.match(behind[0])
        if not (opens and closes):
            continue
        sight.bordered += 1
        sight.person += introduced or acts
        if behind and behind[0] in JOINS_NAMES:
            joined.setdefault(end, []).append(sight)
        for partner in joined.get(start - 1, ()):
            partner.person += 1
            sight.person += 1


def _has_better(sight: _Sight, shorter: _Sight | None, longer: _Sight | None) -> bool:
    """Whether the same places are better read as another name.

    林晚 of 林晚秋: the longer name has as many borders, or the third character always follows. 林远望 of 林远, who looks at
    something: the shorter name has more borders.
    """
    if longer is not None and (longer.bordered >= sight.bordered or longer.always_follows(sight)):
        return True
    return shorter is not None and shorter.bordered > sight.bordered and not sight.always_follows(shorter)


_TITLES = "Mr|Mrs|Ms|Dr|St"
_CAPITALISED = re.compile(
    rf"(?:\b(?:{_TITLES})\. )?\b[A-Z][a-z]+(?:[-'’][A-Z][a-z]+|[A-Z][a-z]+)*(?: [A-Z][a-z]+){{0,3}}"
)
_SENTENCE_OPENS = re.compile(r"(?:^\s*|[.!?…:\n][\"”’')\]]*\s*|[\"“‘'(\[*#>-])$")
"""What stands before a capital that proves nothing. `," Anna said` is not among it: there the sentence goes on."""

_OPENING_REACH = 4
_CAPITALISED_WORDS = """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
    January February March April May June July August September October November December
    Chapter Part Book Volume Prologue Epilogue One Two Three Four Five Six Seven Eight Nine Ten
    English Chinese Okay Mr Mrs Ms Dr Sir Madam Miss
"""
_NO_NAMES = frozenset(_CAPITALISED_WORDS.split())


def english_names(text: str) -> list[Name]:
    """Find the names of an English text, those named most often first: what is capitalised inside a sentence."""
    found: Counter[str] = Counter()
    opening: Counter[str] = Counter()
    for match in _CAPITALISED.finditer(text):
        opens = _SENTENCE_OPENS.search(text[max(0, match.start() - _OPENING_REACH) : match.start()])
        (opening if opens else found)[match[0]] += 1
    known = {word for name in found for word in name.split(" ")}
    for name, times in opening.items():
        # The first word of a sentence may belong to a name, if it does so elsewhere.
        rest = name if name.split(" ")[0] in known else name.partition(" ")[2]
        if rest:
            found[rest] += times
    names = (name for name, _ in found.most_common() if not _NO_NAMES.issuperset(name.split(" ")))
    return _counted(text, list(islice(names, _MOST_NAMES)), "en")


def find_names(text: str, language: Language) -> list[Name]:
    """Find who is named in a text of that language, those named most often first."""
    return chinese_names(text) if language == "zh" else english_names(text)


def _counted(text: str, found: list[str], language: Language) -> list[Name]:
    """Count names in the whole text; what stands inside a longer name counts for that one alone."""
    counts: dict[str, int] = {}
    for name in sorted(found, key=len, reverse=True):
        if language == "zh":
            counts[name] = text.count(name) - sum(n for other, n in counts.items() if name in other)
        else:
            whole = len(re.findall(rf"\b{re.escape(name)}\b", text))
            counts[name] = whole - sum(n for other, n in counts.items() if f" {name} " in f" {other} ")
    return sorted(
        (Name(name, n) for name, n in counts.items() if n > 0), key=lambda one: (-one.count, text.find(one.text))
    )
