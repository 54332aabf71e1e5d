"""The tool character_names: who is mentioned in a text, under which names, how often and where."""

from __future__ import annotations

from bisect import bisect_right

from pydantic import BaseModel, Field

from services.text.people import people
from services.tool.definition import Parameters, tool

from .common import POSITIONS, Text

MOST_PEOPLE = 200
MOST_PARAGRAPHS = 300
"""Of one person that are told."""


class CharacterNamesParameters(Parameters):
    """Whom to look for, and where."""

    text: Text
    at_least: int = Field(default=1, ge=1, le=1000, description="只列出至少提及这么多次的人物。")


class NameForm(BaseModel):
    """One way in which somebody is named."""

    text: str
    count: int
    first: int = Field(description=POSITIONS)


class CharacterFound(BaseModel):
    """Somebody who is mentioned."""

    name: str = Field(description="最完整的称呼")
    count: int
    first: int = Field(description="首次出现的位置")
    forms: list[NameForm] = Field(description="各种称呼，按次数排列")
    paragraphs: list[int] = Field(description="在第几段出现（从 1 起，空行不算段），至多 300 段")


class CharactersFound(BaseModel):
    """Who was found."""

    total: int
    characters: list[CharacterFound] = Field(description="按提及次数排列，至多 200 人")


@tool(category="text", max_output_bytes=512 * 1024, seconds=10.0)
def character_names(parameters: CharacterNamesParameters) -> CharactersFound:
    """找出中文小说里提到的人物：姓名、名、字号、带称谓的叫法（林姑娘、王夫人、政老爷），同一人的叫法尽量归为一组，给出次数、首次位置与所在段落。
    按规则推断，会有遗漏，也可能把一个人列成两个；分段送入时结果以该段文字为限。

    The rules are in services/text; docs/tools.md has what they find in a novel and what they miss.
    """
    text = parameters.text
    starts = _paragraph_starts(text)
    found = [one for one in people(text) if one.count >= parameters.at_least]
    return CharactersFound(
        total=len(found),
        characters=[
            CharacterFound(
                name=one.name,
                count=one.count,
                first=one.first,
                forms=[NameForm(text=form.text, count=form.count, first=form.positions[0]) for form in one.forms],
                paragraphs=sorted({bisect_right(starts, at) for form in one.forms for at in form.positions})[
                    :MOST_PARAGRAPHS
                ],
            )
            for one in found[:MOST_PEOPLE]
        ],
    )


def _paragraph_starts(text: str) -> list[int]:
    """Where each line begins that has anything on it."""
    starts, at = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            starts.append(at)
        at += len(line)
    return starts
