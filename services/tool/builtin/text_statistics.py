"""The tool text_statistics: 字数, sentences, paragraphs, and how much of a text is dialogue."""

from __future__ import annotations

import re

from pydantic import BaseModel, Field

from services.text.counting import count, count_paragraphs, sentences
from services.text.quotes import passages
from services.text.script import INVISIBLE
from services.tool.definition import Parameters, tool

from .common import Text

_BLANK = re.compile(f"[{INVISIBLE}]+")


class TextStatisticsParameters(Parameters):
    """What to count."""

    text: Text


class TextStatistics(BaseModel):
    """What was counted. docs/tools.md gives the rules."""

    zi: int = Field(description="字数：汉字与中文标点各计一，一串字母或数字计一，空白不计")
    zi_without_punctuation: int = Field(description="不含标点的字数")
    han_characters: int = Field(description="汉字数（假名、谚文同计）")
    punctuation: int = Field(description="中文标点数；省略号与破折号各计二")
    words: int = Field(description="字母或数字串的个数")
    characters: int = Field(description="字符总数（含空白）")
    characters_without_blanks: int = Field(description="字符数（不含空白）")
    sentences: int
    paragraphs: int
    average_sentence_zi: float = Field(description="平均句长，按不含标点的字数计；没有句子时为 0")
    longest_sentence_zi: int = Field(description="最长一句的字数，不含标点")
    dialogues: int = Field(description="对话段数")
    dialogue_zi: int = Field(description="引号内的字数")
    dialogue_share: float = Field(description="对话占比，0 至 1：引号内字数除以总字数")


@tool(category="text")
def text_statistics(parameters: TextStatisticsParameters) -> TextStatistics:
    """统计一段中文正文：字数（网文平台口径：汉字与中文标点各计一字，连续的字母或数字计一字，空白不计）、不含标点的字数、句数、段落数、
    平均句长、对话占比。需要准确的字数时用它，不要自己数。

    A sentence without a character of its own (a line of ……) is none.
    """
    text = parameters.text
    counts = count(text)
    sizes = [(one.cjk + one.words) for one in map(count, sentences(text))]
    spoken = passages(text)
    # One by one: a run of letters that goes on behind a mark must not be joined to the next passage.
    spoken_zi = sum(count(text[one.start : one.end]).zi for one in spoken)
    return TextStatistics(
        zi=counts.zi,
        zi_without_punctuation=counts.cjk + counts.words,
        han_characters=counts.cjk,
        punctuation=counts.marks,
        words=counts.words,
        characters=len(text),
        characters_without_blanks=len(_BLANK.sub("", text)),
        sentences=len(sizes),
        paragraphs=count_paragraphs(text),
        average_sentence_zi=round(sum(sizes) / len(sizes), 2) if sizes else 0.0,
        longest_sentence_zi=max(sizes, default=0),
        dialogues=sum(1 for one in spoken if one.end > one.start),
        dialogue_zi=spoken_zi,
        dialogue_share=round(spoken_zi / counts.zi, 4) if counts.zi else 0.0,
    )
