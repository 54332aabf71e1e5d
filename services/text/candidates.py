"""Which strings of a Chinese text are names of people, by the evidence that speaks for them."""

from __future__ import annotations

import re
from collections import Counter

from . import titles
from .evidence import (
    ACTS_BEHIND,
    NEVER_IN_NAME,
    SPEAKS_BEHIND,
    SURNAME,
    H,
    Search,
    begins_with_title,
    is_place,
    surname_of,
)
from .name_lists import ORDINARY_WORDS, SURNAMES
from .names import full_names
from .people_lists import BEFORE, FAMILIAR, NEVER_FAMILIAR, NEVER_IN_GIVEN, NO_PEOPLE, ROLES
from .script import HAN

_NAMED = re.compile(
    "(?:[长次三幼]子名"
    "|(?:[乳小学本艺法俗道化]名|取名|起名|名字|名)(?:就|便)?(?:唤作|叫作|叫做|叫|唤|为|作|是)|(?:唤作|叫做|叫作)"
    "|(?:[乳小学本]|取|起)名|(?:更|改)名|(?<=[长次一二])名|表字|别号|道号|法号)"
    f"({H}{{2,4}}?)(?=[^{HAN}]|$|[的者是乃]|年方|今年|字)"
)
"""名唤雪雁, 乳名英莲, 长名贾赦, 更名袭人: a text introduces somebody."""

_BARE = re.compile(f"(?<=[，；。、])(?:名|字)({H}{{2}})(?=[，。；、])")
"""，名探春； ，字宫裁。 Two characters: idioms that begin with 名 have three behind it."""

_SAME = re.compile(
    f"({H}{{2,4}})，?(?:又名|又称|又叫|别号|表字|字|人称|绰号|外号|诨号|小名|乳名|本名|更名|改名)(?:叫|为|作|是|唤)?"
    f"[“「]?({H}{{2,4}}?)(?=[^{HAN}]|$|[的者])"
)
"""薛蟠，表字文起: two names of one person."""

_STYLED = re.compile(f"名({H})，(?:表)?字({H}{{2}})(?=[^{HAN}])")
"""名赦，字恩侯: a given name of one character, and another name of the same person."""

_LIST = re.compile(f"{H}{{2,3}}(?:、{H}{{1,3}})+、{H}{{2,12}}")
_COUNTED = re.compile(
    f"({H}{{2,3}}?)[两二三四五六七八九十]+[个位名]?{H}{{0,2}}(?:人|丫鬟|丫头|弟子|孙女|孩子|兄弟|姐妹|姊妹|少年|同学)"
)
"""麝月四个丫鬟: how a row of people ends."""

_AND_OTHERS = re.compile(f"({H}{{2,3}}?)(?:之流|之类|等人|诸人|一班人|几人|等)")
_SUBJECT = re.compile(f"(?:(?<![{HAN}])|(?<=[{''.join(sorted(BEFORE))}]))(?=({H}{{2}}))")
_ROLE = re.compile(ROLES)
_SURNAME = re.compile(SURNAME)
_FAMILIAR = re.compile(f"(?<=[“「『])([小老阿]{H})(?=[，,！!？?…—～])")
"""“小雪，…: somebody is called by a familiar name."""
_THREE = re.compile(f"(?=([{''.join(sorted(SURNAMES))}]{H}{{2}}))")


def candidates(text: str) -> Search:
    """Collect the names of a text. Nearly linear in the text: half a second for 200,000 characters of prose."""
    search = Search(text)
    for name in full_names(text):
        if name not in NO_PEOPLE and not is_place(name) and not search.may_be_place(name):
            search.add_full(name)
    _introduced(search)
    _with_roles(search)
    _recurring(search)
    _familiar(search)
    _listed(search)
    _subjects(search)
    titles.of_orders(search)
    _with_surnames(search)
    titles.of_families(search)
    titles.of_given_names(search)
    titles.of_kin(search)
    return search


def _introduced(search: Search) -> None:
    text = search.text
    for match in (*_NAMED.finditer(text), *_BARE.finditer(text)):
        name = match[1]
        if name not in NO_PEOPLE and not is_place(name) and not NEVER_IN_NAME.intersection(name):
            _add(search, name)
    for match in _SAME.finditer(text):
        first, second = match[1], match[2]
        if second in NO_PEOPLE or NEVER_IN_NAME.intersection(second):
            continue
        # The clause before may be longer than the name that ends it.
        known = next((first[i:] for i in range(len(first) - 1) if first[i:] in search.names), None)
        if known is not None:
            search.add_same(known, second)
    for match in _STYLED.finditer(text):
        fulls = [name for name, given in search.full.items() if given == match[1]]
        if len(fulls) == 1:
            search.add_same(fulls[0], match[2])


def _add(search: Search, name: str) -> None:
    """Take a name that may be a full one: 贾兰 is, 英莲 is not."""
    surname = surname_of(name)
    if surname and name[:2] not in ORDINARY_WORDS and len(name) <= len(surname) + 2:
        search.add_full(name)
    else:
        search.add(name)


def _with_roles(search: Search) -> None:
    """次子贾敬, 表兄薛蟠: what somebody is, and a full name behind it."""
    for match in _ROLE.finditer(search.text):
        start = match.end()
        surname = _SURNAME.match(search.text, start)
        if surname is None:
            continue
        for end in (surname.end() + 2, surname.end() + 1):
            if _is_full(search, start, surname.end(), end):
                search.add_full(search.text[start:end])
                break


def _is_full(search: Search, start: int, given: int, end: int) -> bool:
    """Whether text[start:end] is a full name, given that a role stands before it."""
    text = search.text
    name = text[start:end]
    if not re.fullmatch(f"{H}{{{end - start}}}", name):
        return False
    if NEVER_IN_NAME.intersection(text[given:end]) or name in NO_PEOPLE or is_place(name):
        return False
    if begins_with_title(text[given:end]):
        return False
    if end == given + 2 and text[end : end + 1] in "了着过的" and text.count(name) == 1:
        return False  # a verb: 贾赦袭了
    if name in ORDINARY_WORDS or (name[:2] in ORDINARY_WORDS and text.count(name) < 3):
        return False
    return search.closes(end)


def _familiar(search: Search) -> None:
    """小雪, 老赵, 阿宁: 小, 老 or 阿 and one character, who is called by it in speech, or speaks."""
    spoken = (m[1] for m in _SUBJECT.finditer(search.text) if SPEAKS_BEHIND.match(search.text, m.end(1)))
    called = (match[1] for match in _FAMILIAR.finditer(search.text))
    for name in (*called, *spoken):
        if name[0] in FAMILIAR and name[1] not in NEVER_FAMILIAR and not NEVER_IN_GIVEN.intersection(name[1]):
            search.add(name)


def _recurring(search: Search) -> None:
    """A surname and the same two characters again and again, also some that other rules fear: 林如海."""
    threes = Counter(match[1] for match in _THREE.finditer(search.text))
    for name, times in threes.items():
        if times < 2 or name in search.names or name[:2] in ORDINARY_WORDS or name[:2] in search.names:
            continue
        if NEVER_IN_NAME.intersection(name) - {"如"}:
            continue
        given = name[1:]
        if given in NO_PEOPLE or begins_with_title(given) or is_place(name) or given[-1] in "家门氏之便又":
            continue
        bordered = sum(1 for at in search.places(name) if search.opens(at) and search.closes(at + 3))
        # Hardly anything else begins with the same two characters, or the third one is a verb behind a shorter name.
        certain = bordered * 2 >= times and times * 5 >= search.text.count(name[:2]) * 4
        if certain and not search.may_be_place(name):
            search.add_full(name)


def _listed(search: Search) -> None:
    """许由、陶潜、阮籍: people in a row, if most of them have a surname or are known, or somebody says that they are people."""
    for match in _LIST.finditer(search.text):
        first, *inner, last = match[0].split("、")
        inner = [item for item in inner if len(item) > 1]
        opening = next((first[-n:] for n in (3, 2) if _may_be_name(search, first[-n:])), None)
        ending = last if len(last) < 4 and _may_be_name(search, last) else None
        certain = sum(1 for item in inner if _may_be_name(search, item)) + (opening is not None) + (ending is not None)
        counted, others = _COUNTED.match(last), _AND_OTHERS.match(last)
        if certain * 3 < (len(inner) + 2) * 2 - 1 and not (counted and certain):
            continue
        if counted is not None:
            ending = counted[1]
        elif others is not None and certain > 2:
            ending = others[1]
        for item in (opening, *inner, ending):
            if item and item not in NO_PEOPLE and not NEVER_IN_NAME.intersection(item):
                _add(search, item)


def _may_be_name(search: Search, item: str) -> bool:
    if item in search.names:
        return True
    return bool(surname_of(item)) and item[:2] not in ORDINARY_WORDS and not NEVER_IN_NAME.intersection(item)


def _subjects(search: Search) -> None:
    """Two characters that begin clauses and speak or act, often: 黛玉, 子兴. People without a surname."""
    speaks: Counter[str] = Counter()
    acts: Counter[str] = Counter()
    for match in _SUBJECT.finditer(search.text):
        name = match[1]
        if NEVER_IN_GIVEN.intersection(name) or name in NO_PEOPLE or name in ORDINARY_WORDS:
            continue
        if SPEAKS_BEHIND.match(search.text, match.end(1)):
            speaks[name] += 1
        elif ACTS_BEHIND.match(search.text, match.end(1)):
            acts[name] += 1
    for name, times in speaks.items():
        if times < 2 and acts[name] < 2:
            continue
        # In a long text everything has spoken twice: a name does so often, for how often it stands there.
        if (times + acts[name]) * 8 >= search.text.count(name) and not is_place(name) and not search.does_verbs(name):
            _add(search, name)


def _with_surnames(search: Search) -> None:
    """林黛玉, once 黛玉 is known; 士隐, once 甄士隐 is."""
    for given in [name for name in search.names if len(name) == 2 and name not in search.full]:
        places = search.places(given)
        before = Counter(search.text[at - 1] for at in places if at and search.opens(at - 1))
        surnames = [(times, char) for char, times in before.items() if char in SURNAMES and char not in BEFORE]
        if not surnames:
            continue
        times, surname = max(surnames)
        related = any(other.startswith(surname) for other in search.full)
        if (times >= 2 or related or len(places) <= 3) and times * 100 >= len(places):
            search.add_full(surname + given)
    for full, given in list(search.full.items()):
        alone = search.text.count(given) - search.text.count(full)
        if len(given) == 2 and alone > 0 and given not in ORDINARY_WORDS and given not in NO_PEOPLE:
            search.add(given)
