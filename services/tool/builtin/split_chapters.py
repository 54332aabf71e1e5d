"""The tool split_chapters: where the chapters of a novel are, and what is wrong with their numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from services.text.chapters import Kind, flaws, split
from services.text.counting import count
from services.tool.definition import Parameters, tool
from services.tool.errors import ToolFailed

from .common import POSITIONS, Text

MOST_CHAPTERS = 2000


class SplitChaptersParameters(Parameters):
    """What to split."""

    text: Text


class ChapterFound(BaseModel):
    """One piece of the text."""

    kind: Kind = Field(
        description="front 为首个标题之前的文字，volume 卷，chapter 章或回，section 节，prologue 序，extra 番外，epilogue 尾声"
    )
    unit: str
    number: int | None
    title: str
    start: int = Field(description=POSITIONS)
    body_start: int
    end: int
    zi: int = Field(description="正文字数，不含标题行")


class NumberingProblem(BaseModel):
    """Something about the numbers."""

    kind: Literal["gap", "duplicate", "backward"]
    message: str
    position: int


class Chapters(BaseModel):
    """What was found."""

    chapters: list[ChapterFound]
    problems: list[NumberingProblem]


_WORDS = {
    "gap": "缺少第 {0} {1}",
    "gaps": "缺少第 {0} 至 {2} {1}",
    "duplicate": "第 {0} {1}重复",
    "backward": "第 {0} {1}次序倒退",
}
"""{0} the number, {1} the unit, {2} the last number that is missing."""


@tool(category="text", max_output_bytes=512 * 1024)
def split_chapters(parameters: SplitChaptersParameters) -> Chapters:
    """按标题切分小说：识别独占一行的“第…章/回/节/卷”（中文或阿拉伯数字）以及楔子、序、番外、尾声，给出每一部分的标题、编号、起止位置和字数，
    并指出编号的缺漏、重复与倒退。句子里的“第三章”不算标题。
    """
    text = parameters.text
    pieces = split(text)
    if len(pieces) > MOST_CHAPTERS:
        raise ToolFailed(
            f"The text has {len(pieces)} headings; the limit is {MOST_CHAPTERS}",
            f"文本含 {len(pieces)} 个标题，超过上限 {MOST_CHAPTERS}",
        )
    return Chapters(
        chapters=[
            ChapterFound(
                kind=one.kind,
                unit=one.unit,
                number=one.number,
                title=one.title,
                start=one.start,
                body_start=one.body,
                end=one.end,
                zi=count(text[one.body : one.end]).zi,
            )
            for one in pieces
        ],
        problems=[
            NumberingProblem(
                kind=flaw.kind,
                message=_WORDS["gaps" if flaw.last > flaw.number else flaw.kind].format(
                    flaw.number, flaw.unit, flaw.last
                ),
                position=flaw.at,
            )
            for flaw in flaws(pieces)
        ],
    )
