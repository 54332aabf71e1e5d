"""What the rules for names share: the text, what was found so far, and what may stand around a name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .name_lists import COMPOUND_SURNAMES, FOLLOWS_NAME, SURNAMES
from .people_lists import ACTS, BEFORE, FEMALE_TITLES, MALE_TITLES, PLAIN_TITLES, ROLES, SPEAKS, WIFE_TITLES
from .script import HAN

MOST_NAMES = 2000
"""That are collected; each one costs a walk through the text. A novel of a million characters has some hundred people."""

H = f"[{HAN}]"
"""A regex: a Chinese character."""
SURNAME = f"(?:{COMPOUND_SURNAMES}|[{''.join(sorted(SURNAMES))}])"
"""A regex."""
TITLE = f"[大二三四五老]?(?:{MALE_TITLES}|{FEMALE_TITLES}|{PLAIN_TITLES}|{WIFE_TITLES})"
"""A regex: what somebody is called besides a name."""
SPEAKS_BEHIND = re.compile(SPEAKS)
ACTS_BEHIND = re.compile(ACTS)

NEVER_IN_NAME = frozenset(
    "的了着过是我你您他她它们这那么什怎谁哪吗呢吧啊就都也很又却还把被让给从对向与和跟或但因所如果若虽已曾在去来到说问不有没几个"
    "笑哭骂喊叫听看见想道喝答叹觉"
)
"""Characters of no name that these rules guess; those that a text introduces by 名叫 must do without them, too."""

_HAN = re.compile(H)
_SURNAME = re.compile(SURNAME)
_TITLE = re.compile(TITLE)
_ROLE = re.compile(f"(?:{ROLES})$")
_PLACES = frozenset("渡山河湖海江城镇村庄谷峰岛寨关桥街巷坊楼阁亭园堂斋")
_CLOSERS = frozenset("之乃系亦犹已曾俱皆死居遂于今因而与升立")
"""What may stand right behind a name besides `FOLLOWS_NAME`."""


@dataclass(slots=True)
class Search:
    """A search through one text."""

    text: str
    names: dict[str, None] = field(default_factory=dict)
    """All forms, in the order in which they were found. (A dict: the order must not depend on a hash seed.)"""
    full: dict[str, str] = field(default_factory=dict)
    """Full names, each with its given name."""
    titled: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Surname with a title: the two parts."""
    kin: dict[str, tuple[str, str]] = field(default_factory=dict)
    """A character of a given name with a title: the two parts."""
    same: list[tuple[str, str]] = field(default_factory=list)
    """Pairs that the text itself calls the same person."""

    def add(self, name: str) -> None:
        """Take a form as it is."""
        if len(self.names) < MOST_NAMES:
            self.names[name] = None

    def add_full(self, name: str) -> None:
        """Take a name that begins with a surname, unless what follows is a title."""
        surname = surname_of(name)
        given = name[len(surname) :]
        self.add(name)
        if name not in self.names:
            return
        if surname and is_title(given):
            self.titled[name] = surname, given
        elif surname:
            self.full[name] = given

    def add_same(self, first: str, second: str) -> None:
        """Take a second form of somebody."""
        self.add(second)
        self.same.append((first, second))

    def places(self, part: str) -> list[int]:
        """Where a part stands in the text."""
        found = []
        at = self.text.find(part)
        while at >= 0:
            found.append(at)
            at = self.text.find(part, at + len(part))
        return found

    def opens(self, start: int) -> bool:
        """Whether somebody may be named from there on: behind a mark, a word such as 和, a role, another name."""
        before = self.text[start - 1 : start]
        if not _HAN.match(before) or before in BEFORE or before == "的":
            return True
        if _ROLE.search(self.text[max(0, start - 3) : start]):
            return True
        return any(self.text[max(0, start - size) : start] in self.names for size in (2, 3))

    def closes(self, end: int) -> bool:
        """Whether a name may end there: before a mark, a particle, something that people do."""
        behind = self.text[end : end + 1]
        if not _HAN.match(behind) or behind in FOLLOWS_NAME or behind in _CLOSERS:
            return True
        if self.text[end + 1 : end + 2] in ("了", "着", "过"):
            return True
        return ACTS_BEHIND.match(self.text, end) is not None or SPEAKS_BEHIND.match(self.text, end) is not None

    def acts(self, name: str) -> bool:
        """Whether somebody of that name speaks or acts anywhere."""
        ends = [at + len(name) for at in self.places(name)]
        return any(ACTS_BEHIND.match(self.text, end) or SPEAKS_BEHIND.match(self.text, end) for end in ends)

    def may_be_place(self, name: str) -> bool:
        """Whether a name ends like that of a place, and nothing shows that it is a person: 白鹿渡, but not 林如海."""
        return name[-1] in _PLACES and not self.acts(name) and not (len(name) > 2 and self.acts(name[-2:]))

    def does_verbs(self, word: str) -> bool:
        """Whether a word is often followed by 了, 着 or 过, as verbs are and names are not."""
        followed = sum(self.text.count(word + particle) for particle in "了着过")
        return followed * 10 > self.text.count(word)


def surname_of(name: str) -> str:
    """The surname that a name begins with; empty: none."""
    match = _SURNAME.match(name)
    return match[0] if match and len(name) > match.end() else ""


def is_title(part: str) -> bool:
    """Whether a part is a title as a whole."""
    return _TITLE.fullmatch(part) is not None


def begins_with_title(part: str) -> bool:
    """Whether a part begins with a title."""
    return _TITLE.match(part) is not None


def has_title(part: str) -> bool:
    """Whether there is a title in a part."""
    return _TITLE.search(part) is not None


def is_place(name: str) -> bool:
    """Whether a name is that of a house, a place or a time rather."""
    if len(name) == 2 and name[-1] in "中内里外上下前后时人家门":
        return True
    return "府" in name or name[-1] in "庙寺县州巷宫殿店"
