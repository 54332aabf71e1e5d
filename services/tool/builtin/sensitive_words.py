"""The tool sensitive_words: the words of a list in a text, also those that are written to escape it."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, Field

from services.tool.definition import Parameters, tool
from services.tool.errors import ToolFailed

from .common import POSITIONS, Text
from .word_finder import WordFinder

MOST_WORDS = 5000
"""Of a call's own list. The deployment's list may be longer."""

MOST_HITS = 500
"""That are told one by one."""

Word = Annotated[str, Field(min_length=1, max_length=50)]


class SensitiveWordsParameters(Parameters):
    """What to look for, and where."""

    text: Text
    words: list[Word] = Field(
        default=[],
        max_length=MOST_WORDS,
        description="要查的词；留空则用平台自己的词表。每词至多 50 字，至多 5000 词。",
    )


class WordHit(BaseModel):
    """One place."""

    word: str = Field(description="词表中的写法")
    written: str = Field(description="文中的写法")
    start: int = Field(description=POSITIONS)
    end: int
    exact: bool = Field(description="是否与词表写法相同；false 为变体（夹符号、全角、繁体等）")


class SensitiveWordsFound(BaseModel):
    """What was found."""

    total: int
    hits: list[WordHit] = Field(description="按位置排列，至多 500 处")


_listed = WordFinder(())
"""The deployment's list, set by `use_list`."""


@tool(category="text", max_output_bytes=256 * 1024)
def sensitive_words(parameters: SensitiveWordsParameters) -> SensitiveWordsFound:
    """查出文中的敏感词及其位置，包括变体：夹杂符号或空格（敏*感-词）、零宽字符、全角字母、常见繁体字。可用自带词表，也可用平台词表。

    Raises:
        ToolFailed: there is no list.
    """
    finder = _finder(tuple(parameters.words)) if parameters.words else _listed
    if not len(finder):
        raise ToolFailed(
            "There are no words to look for: give some in `words`; this deployment has no list of its own",
            "没有可查的词：请在 words 中给出；平台未配置词表",
        )
    text = parameters.text
    hits = finder.find(text)
    return SensitiveWordsFound(
        total=len(hits),
        hits=[
            WordHit(word=hit.word, written=text[hit.start : hit.end], start=hit.start, end=hit.end, exact=hit.exact)
            for hit in hits[:MOST_HITS]
        ],
    )


@sensitive_words.prepare
def use_list(words: object) -> None:
    """Take the deployment's list: a list of strings."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TypeError("the settings of sensitive_words must be a list of words")
    global _listed
    _listed = WordFinder(words)


@lru_cache(maxsize=4)
def _finder(words: tuple[str, ...]) -> WordFinder:
    """A list is often the same from call to call."""
    return WordFinder(words)
