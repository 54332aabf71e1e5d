"""Which names of a text are the same person."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .evidence import Search
from .people_lists import FEMALE_CHARS, FEMALE_TITLES, MALE_TITLES, NOT_BY_SURNAME, WIFE_TITLES

_MALE = re.compile(f"[大二三四五老]?(?:{MALE_TITLES})")
_FEMALE = re.compile(f"[大二三四五老]?(?:{FEMALE_TITLES})")
_WIFE = re.compile(f"[大二三四五]?(?:{WIFE_TITLES})")


def group(found: Search, counts: Mapping[str, int]) -> list[list[str]]:
    """Put names together that mean the same person.

    - A full name and its given name, if no two full names share it.
    - What the text itself calls the same.
    - A surname with a title and the only full name with that surname that it fits. 林姑娘 is 林黛玉 and not 林如海, because 黛
      speaks for a woman. A title that does not fit needs a full name that stands there more than once.
    - A kin form and the only given name with that character; of several, the only one that is nothing but it, or that the
      title fits.

    What fits two people stays alone.
    """
    parent = {name: name for name in found.names}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    def join(first: str, second: str) -> None:
        if first in parent and second in parent:
            parent[root(second)] = root(first)

    by_given: dict[str, list[str]] = {}
    for full, given in found.full.items():
        if counts.get(full):
            by_given.setdefault(given, []).append(full)
    for given, fulls in by_given.items():
        if len(fulls) == 1 and len(given) == 2:
            join(fulls[0], given)
    for first, second in found.same:
        join(first, second)
    kin = dict(found.kin)
    for form, (surname, title) in found.titled.items():
        if title in NOT_BY_SURNAME:
            continue
        those = [full for full, given in found.full.items() if counts.get(full) and full == surname + given]
        fitting = [full for full in those if _fits(found.full[full], title)]
        sure = [full for full in those if counts[full] > 1]
        if one := _only(fitting, root) or (_only(those, root) and _only(sure, root)):
            join(one, form)
        elif not those:
            kin[form] = surname, title  # 凤姐: a character of a given name that is also a surname
    named = {
        name: given
        for name in found.names
        if counts.get(name)
        and name not in kin
        and name not in found.titled
        and len(given := found.full.get(name, name)) <= 2
    }
    for form, (char, title) in kin.items():
        if _WIFE.fullmatch(title):
            continue
        those = [name for name, given in named.items() if char in given]
        exact = [name for name in those if named[name] == char]
        fitting = [name for name in those if _fits(named[name], title)]
        if one := _only(those, root) or _only(exact, root) or _only(fitting, root):
            join(one, form)
    groups: dict[str, list[str]] = {}
    for name in found.names:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _fits(given: str, title: str) -> bool:
    """Whether somebody with that given name may be called so."""
    female = any(char in FEMALE_CHARS for char in given)
    if _FEMALE.fullmatch(title):
        return female
    return not female if _MALE.fullmatch(title) else True


def _only(names: list[str], root: Callable[[str], str]) -> str | None:
    """The one person that all these names mean; None: there are none, or several."""
    return names[0] if names and len({root(name) for name in names}) == 1 else None
