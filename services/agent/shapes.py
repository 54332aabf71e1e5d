"""The JSON shapes in which agents answer when `context["format"]` is `json` (docs/agents.md).

Models are inexact about types and exact about little: numbers may come as text and the other way round, and fields that are not
named here are left out of the answer. What is named here without a default must be there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Line = Annotated[str, Field(min_length=1)]
"""A text that may not be empty."""


class Shape(BaseModel):
    """What every shape and every part of one is."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True, coerce_numbers_to_str=True)


class Chapter(Shape):
    """One chapter of an outline."""

    number: Annotated[int, Field(ge=1)]
    title: Line
    summary: Line
    """What happens: who wants what, what stands against it, how it ends."""
    hook: Line
    """Why a reader goes on to the next chapter."""
    foreshadowing: tuple[Line, ...] = ()
    """What is planted or paid off here."""


class Outline(Shape):
    """Answer of `outline`."""

    title: Line
    premise: Line
    """The story in one sentence."""
    chapters: Annotated[tuple[Chapter, ...], Field(min_length=1)]


class Relation(Shape):
    """What one character is to another."""

    name: Line
    relation: Line


class Character(Shape):
    """One character sheet."""

    name: Line
    aliases: tuple[Line, ...] = ()
    role: Literal["主角", "配角", "反派", "其他"]
    appearance: Line
    personality: Annotated[tuple[Line, ...], Field(min_length=1)]
    desire: Line
    """What they want, and do something for."""
    weakness: Line
    voice: Line
    """How they talk, so that a reader knows them without a name."""
    arc: Line
    """Who they are at the beginning and at the end."""
    relations: tuple[Relation, ...] = ()


class Characters(Shape):
    """Answer of `character`."""

    characters: Annotated[tuple[Character, ...], Field(min_length=1)]


class Beat(Shape):
    """One turn of the plot."""

    order: Annotated[int, Field(ge=1)]
    event: Line
    cause: Line
    result: Line
    characters: tuple[Line, ...] = ()
    tension: Annotated[int, Field(ge=1, le=5)]


class Clue(Shape):
    """Something planted, and where it pays off."""

    clue: Line
    planted: Line
    payoff: Line


class Plot(Shape):
    """Answer of `plot`."""

    conflict: Line
    """Who wants what, and what stands against it."""
    beats: Annotated[tuple[Beat, ...], Field(min_length=1)]
    foreshadowing: tuple[Clue, ...] = ()
    risks: tuple[Line, ...] = ()
    """Where it contradicts what was given, or strains belief."""


class Issue(Shape):
    """One thing to be corrected."""

    severity: Literal["严重", "一般", "轻微"]
    kind: Literal["逻辑", "人物", "节奏", "文笔", "设定", "错别字", "合规", "其他"]
    quote: str = ""
    """The passage, word for word; empty: it is about the whole."""
    problem: Line
    suggestion: Line


class Review(Shape):
    """Answer of `review`."""

    score: Annotated[int, Field(ge=0, le=100)]
    verdict: Literal["可用", "小改", "大改", "重写"]
    summary: Line
    strengths: tuple[Line, ...] = ()
    issues: tuple[Issue, ...] = ()


SHAPES: dict[str, type[Shape]] = {"outline": Outline, "characters": Characters, "plot": Plot, "review": Review}
"""By the name that `agents.yaml` uses."""
