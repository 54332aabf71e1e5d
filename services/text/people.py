"""Who is mentioned in a Chinese text, where, and under which names. Rules and evidence, no dictionary of persons.

`candidates` collects names by the evidence that speaks for them; `aliases` says which of them are the same person. The rules
prefer a name that is left out to one that is none, and two entries for one person to one entry for two.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .aliases import group
from .candidates import candidates

MOST_PEOPLE = 500
MOST_PLACES = 1000
"""Of a form that are kept; all are counted."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which somebody is named."""

    text: str
    count: int
    positions: tuple[int, ...]
    """Of the first thousand."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is mentioned."""

    name: str
    """The fullest form."""
    forms: tuple[Form, ...]
    """Those that are counted most often first."""

    @property
    def count(self) -> int:
        """How often all forms stand in the text."""
        return sum(form.count for form in self.forms)

    @property
    def first(self) -> int:
        """Where the first one stands."""
        return min(form.positions[0] for form in self.forms)


def people(text: str) -> list[Person]:
    """Find the people of a text, those mentioned most often first; of equals, the first one.

    Where forms overlap, the one that begins first counts, and of those the longest: 林黛玉 is no mention of 黛玉 besides.
    A form that two people share counts for the one who is found by more evidence.
    """
    found = candidates(text)
    places = positions(text, found.names)
    groups = group(found, {name: len(at) for name, at in places.items()})
    made = [
        Person(
            max(forms, key=lambda form: (form in found.full, len(places[form]), len(form))),
            tuple(
                Form(form, len(places[form]), tuple(places[form][:MOST_PLACES]))
                for form in sorted(forms, key=lambda form: (-len(places[form]), places[form][0]))
            ),
        )
        for one in groups
        if (forms := [form for form in one if places.get(form)])
    ]
    return sorted(made, key=lambda person: (-person.count, person.first))[:MOST_PEOPLE]


def positions(text: str, forms: Iterable[str]) -> dict[str, list[int]]:
    """Find where each form stands, from left to right, without overlaps, the longest first."""
    by_first: defaultdict[str, list[str]] = defaultdict(list)
    for form in forms:
        by_first[form[0]].append(form)
    found: dict[str, list[int]] = {}
    if not by_first:
        return found
    for those in by_first.values():
        those.sort(key=len, reverse=True)
    taken = 0
    for place in re.finditer(f"[{''.join(map(re.escape, by_first))}]", text):
        at = place.start()
        if at < taken:
            continue
        for form in by_first[text[at]]:
            if text.startswith(form, at):
                found.setdefault(form, []).append(at)
                taken = at + len(form)
                break
    return found
