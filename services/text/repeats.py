"""Phrases that come again so soon that a reader notices."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .script import HAN

_RUN = re.compile(f"[{HAN}]+")


@dataclass(frozen=True, slots=True)
class Repeat:
    """A phrase and where it stands, without overlapping itself. Each place has another one near."""

    text: str
    positions: tuple[int, ...]
    is_part: bool
    """Whether all that repeats is longer than the longest phrase that was looked for: this is its beginning."""


def repeats(
    text: str, least: int, most: int, distance: int, is_ordinary: Callable[[str], bool] = lambda phrase: False
) -> list[Repeat]:
    """Find phrases of `least` to `most` Han characters that stand twice or more with at most `distance` between their beginnings.

    A phrase does not cross punctuation. A phrase within a longer one is given only if it stands somewhere else besides.
    What is longer than `most` is given once, by its beginning. Those with the most places come first, then the longest ones.

    Time and memory are linear in the text for each length; ordinary prose has few phrases that repeat at all, so that all
    lengths but the first cost nearly nothing.

    Args:
        is_ordinary: phrases of which nobody says that they repeat. Asked only about those that do.
    """
    by_length: list[dict[str, list[int]]] = []
    places: Iterable[int] = _starts(text, least)
    ends = _run_ends(text)
    for length in range(least, most + 1):
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for at in places:
            if at + length <= ends[at]:
                groups[text[at : at + length]].append(at)
        near = {phrase: found for phrase, all_ in groups.items() if len(found := _near(all_, length, distance)) > 1}
        by_length.append(near)
        places = sorted(at for found in near.values() for at in found)
    return _longest(text, by_length, least, distance, is_ordinary)


def _starts(text: str, least: int) -> Iterable[int]:
    for run in _RUN.finditer(text):
        yield from range(run.start(), run.end() - least + 1)


def _run_ends(text: str) -> list[int]:
    """By place: where the run of Han characters ends that it is in."""
    ends = [0] * len(text)
    for run in _RUN.finditer(text):
        ends[run.start() : run.end()] = [run.end()] * (run.end() - run.start())
    return ends


def _near(places: list[int], length: int, distance: int) -> list[int]:
    """Keep the places that have another one near, but not so near that they overlap."""
    if len(places) < 2:
        return []
    kept: list[int] = []
    before = after = 0
    for at in places:
        while before + 1 < len(places) and places[before + 1] <= at - length:
            before += 1
        while after < len(places) and places[after] < at + length:
            after += 1
        follows = at - distance <= places[before] <= at - length
        if follows or (after < len(places) and places[after] <= at + distance):
            kept.append(at)
    return kept


def _longest(
    text: str, by_length: list[dict[str, list[int]]], least: int, distance: int, is_ordinary: Callable[[str], bool]
) -> list[Repeat]:
    found: list[Repeat] = []
    covered = [0] * (len(text) + 1)
    """By place: where the longest phrase ends that was given and holds what begins here."""
    most = least + len(by_length) - 1
    for length in range(most, least - 1, -1):
        near = by_length[length - least]
        repeated = {at for places in near.values() for at in places} if length == most else set()
        for phrase, places in near.items():
            if all(covered[at] >= at + length for at in places):
                continue
            goes_on = length == most and all(
                at - 1 in repeated and text[at - 1 : at - 1 + length] in near for at in places
            )
            apart = _apart(places, length, distance)
            if len(apart) < 2:
                continue
            if not goes_on and not is_ordinary(phrase):
                is_part = length == most and any(at + 1 in repeated for at in apart)
                found.append(Repeat(phrase, tuple(apart), is_part))
            _cover(covered, places, length, least)
    return sorted(found, key=lambda one: (-len(one.positions), -len(one.text), one.positions))


def _cover(covered: list[int], places: Iterable[int], length: int, least: int) -> None:
    for at in places:
        for inner in range(at, at + length - least + 1):
            covered[inner] = max(covered[inner], at + length)


def _apart(places: list[int], length: int, distance: int) -> list[int]:
    """Take places from the left that do not overlap, and of those the ones that are near another."""
    chosen: list[int] = []
    for at in places:
        if not chosen or at >= chosen[-1] + length:
            chosen.append(at)
    return _near(chosen, length, distance)
