"""Names that are made with titles: 薛姨妈, 政老爷, 雨村兄, 渺渺真人."""

from __future__ import annotations

import re
from collections import Counter

from .evidence import SURNAME, H, Search, has_title, surname_of
from .name_lists import ORDINARY_WORDS
from .people_lists import (
    EPITHET_WORDS,
    FEMALE_TITLES,
    MALE_TITLES,
    NEVER_IN_GIVEN,
    NO_ORDER,
    NO_PEOPLE,
    ORDERS,
    PLAIN_TITLES,
    WIFE_TITLES,
)

_FAMILY = re.compile(f"({SURNAME})((?:[大二三四五老])?(?:{MALE_TITLES}|{FEMALE_TITLES}|{PLAIN_TITLES}))")
_ORDER = re.compile(ORDERS)
_GIVEN_TITLES = "丫头|姑娘|姐姐|妹妹|妹子|哥哥|兄弟|公子|小姐|先生|大哥|师兄|师姐|师弟|师妹|兄|姐|哥|叔|爷"
_BEFORE_TITLE = re.compile(f"(?=({H}{{2}})({_GIVEN_TITLES}))")
_KIN = f"(?:[大二三四五])?(?:{WIFE_TITLES}|{MALE_TITLES}|{FEMALE_TITLES})"

_RISKY = frozenset(("公", "爷", "兄", "哥", "叔", "伯", "姐", "母", "总", "婶", "老头", "大人", "大爷", "爷爷", "公公"))
"""Short titles that make ordinary words with a surname: they must be seen with borders on both sides."""

_SURE_KIN = frozenset(
    ("老爷", "大老爷", "二老爷", "老前辈", "大嫂子", "二嫂子", "大哥", "二哥", "三哥", "大爷", "二爷", "大叔", "二叔")
)
"""Titles that show a name before them, whatever stands before that."""

_NO_KIN = frozenset("老大小女主相王师先太天人家")
"""Characters that make a word of their own with a title: 老爷, 相公, 师兄."""


def of_orders(search: Search) -> None:
    """渺渺真人, 痴梦仙姑: a name in religion, of the longest part that has nothing in it that only describes."""
    for match in _ORDER.finditer(search.text):
        at = match.start()
        for size in (2, 1):
            part = search.text[max(0, at - size) : at]
            if not re.fullmatch(f"{H}{{{size}}}", part):
                continue
            known = part in search.names
            if not known and (EPITHET_WORDS | NEVER_IN_GIVEN).intersection(part):
                continue
            redoubled = size == 2 and part[0] == part[1]
            if known:
                search.add_same(part, part + match[0])
            elif redoubled or search.opens(at - size):
                search.add(part + match[0])
            else:
                continue
            break


def of_families(search: Search) -> None:
    """薛姨妈, 冯公子, 尤氏: a surname and what somebody is."""
    seen: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    bordered: Counter[str] = Counter()
    parts: dict[str, tuple[str, str]] = {}
    for match in _FAMILY.finditer(search.text):
        name, surname, title = match[0], match[1], match[2]
        if name in search.names or name in NO_PEOPLE or ORDINARY_WORDS.intersection((name, name[:2])):
            continue
        if _is_order_of_none(title):
            continue
        opens = search.opens(match.start())
        seen[name] += 1
        opened[name] += opens
        bordered[name] += opens and search.closes(match.end())
        parts[name] = surname, title
    for name, (surname, title) in parts.items():
        enough = bordered[name] or opened[name] > 1 if title in _RISKY else opened[name] or seen[name] > 2
        if enough:
            search.add(name)
            search.titled[name] = surname, title


def _is_order_of_none(title: str) -> bool:
    """二公: an order before a title that has none."""
    return title[0] in "大二三四五" and title[1:] in NO_ORDER


def of_given_names(search: Search) -> None:
    """雨村兄, 娇杏丫头: a known given name and a title; or an unknown one that stands elsewhere, too."""
    for match in _BEFORE_TITLE.finditer(search.text):
        given, title = match[1], match[2]
        if given + title in search.names or given in NO_PEOPLE or NEVER_IN_GIVEN.intersection(given):
            continue
        if given not in search.names and not (len(title) > 1 and _is_given(search, given)):
            continue
        search.add(given)
        if title != "丫头":
            search.add_same(given, given + title)


def _is_given(search: Search, given: str) -> bool:
    """Whether two characters before a title are a name that nothing else speaks for."""
    if given in ORDINARY_WORDS or has_title(given) or surname_of(given) or search.does_verbs(given):
        return False
    places = search.places(given)
    # Most of what stands before a title by chance (在家姑娘) stands elsewhere in the middle of clauses.
    opened = sum(1 for at in places if search.opens(at))
    return opened >= 3 and opened * 2 > len(places)


def of_kin(search: Search) -> None:
    """政老爷, 琏二嫂子: a character of a known given name and what somebody is."""
    sure = {char for given in search.full.values() for char in given}
    chars = sure | {char for name in search.names if len(name) == 2 for char in name}
    if not chars:
        return
    text = search.text
    for match in re.finditer(f"([{''.join(sorted(chars))}])({_KIN})", text):
        char, title, name = match[1], match[2], match[0]
        if name in search.names or name in ORDINARY_WORDS or name in NO_PEOPLE or char in _NO_KIN:
            continue
        opens = search.opens(match.start()) or text[match.start() - 1 : match.start()] in "你我"
        if len(title) == 1 and not (opens and search.closes(match.end())):
            continue
        if _is_order_of_none(title) or (NEVER_IN_GIVEN.intersection(char) and char not in sure):
            continue
        if opens or (char in sure and title in _SURE_KIN):
            search.add(name)
            search.kin[name] = char, title
