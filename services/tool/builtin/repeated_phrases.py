"""The tool repeated_phrases: phrases that come again so soon that a reader notices."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from services.text.people import people
from services.text.repeats import repeats
from services.tool.definition import Parameters, tool
from services.tool.errors import Refusal

from .common import POSITIONS, Text

MOST_PLACES = 50
"""Of one phrase that are told."""

_FUNCTION = frozenset(
    "的了着过是不也就都在和与我你他她它们这那些个一有没么什怎为之其而且又还便却只因此如今但若虽已曾将把被让给从对向到去来上下里中"
    "出起得地所以及或等吗呢吧啊呀嘛哦时候样会能可要想说道问答话可以自己知道什么怎么这么那么没有不是就是还是只是于是忽然听见看见"
    "两三几多少大小很再更最太"
)
"""Characters of which ordinary strings are made, such as 这是怎么回事 and 说了一句话."""

_LEAST_CONTENT = 2
"""Characters besides function words and names that a phrase must have to be noticed."""


class RepeatedPhrasesParameters(Parameters):
    """What to look for, and where."""

    text: Text
    min_length: int = Field(default=4, ge=2, le=30, description="短语最少几个汉字。")
    max_length: int = Field(default=12, ge=2, le=30, description="短语最多几个汉字；更长的重复只报开头。")
    distance: int = Field(default=300, ge=1, le=5000, description="两次出现相距不超过多少个字符才算重复。")
    ignore: list[Annotated[str, Field(min_length=1, max_length=30)]] = Field(
        default=[], max_length=200, description="不算作内容的词，例如人名、地名；文中的人名会自动识别。"
    )
    limit: int = Field(default=50, ge=1, le=500, description="最多报告多少个短语。")

    @model_validator(mode="after")
    def _has_order(self) -> RepeatedPhrasesParameters:
        if self.min_length > self.max_length:
            raise Refusal("min_length must not be above max_length", "min_length 不能大于 max_length")
        return self


class RepeatedPhrase(BaseModel):
    """A phrase that comes again."""

    text: str
    count: int
    positions: list[int] = Field(description=POSITIONS + "至多 50 处")
    closest: int = Field(description="最近两次相距的字符数（起点到起点）")
    is_part: bool = Field(description="重复的文字比 max_length 更长，这里只是开头")


class RepeatedPhrases(BaseModel):
    """What was found."""

    total: int
    phrases: list[RepeatedPhrase] = Field(description="次数多的在前，其次长的在前")


@tool(category="text", max_output_bytes=256 * 1024, seconds=10.0)
def repeated_phrases(parameters: RepeatedPhrasesParameters) -> RepeatedPhrases:
    """找出短距离内重复、读者会察觉的短语（默认 4 至 12 个汉字、300 字以内），不跨标点，只报最长的；
    人名与虚词组成的常用语不算。用于润色时查重复用词。

    A phrase within a longer one is told only if it stands somewhere else besides.
    """
    text = parameters.text
    ignored = sorted({*parameters.ignore, *_names(text)}, key=len, reverse=True)
    by_first: dict[str, list[str]] = {}
    for word in ignored:
        by_first.setdefault(word[0], []).append(word)

    def is_ordinary(phrase: str) -> bool:
        return _content(phrase, by_first) < _LEAST_CONTENT

    found = repeats(text, parameters.min_length, parameters.max_length, parameters.distance, is_ordinary)
    return RepeatedPhrases(
        total=len(found),
        phrases=[
            RepeatedPhrase(
                text=one.text,
                count=len(one.positions),
                positions=list(one.positions[:MOST_PLACES]),
                closest=min(after - at for at, after in zip(one.positions, one.positions[1:], strict=False)),
                is_part=one.is_part,
            )
            for one in found[: parameters.limit]
        ],
    )


def _names(text: str) -> list[str]:
    return [form.text for person in people(text) for form in person.forms]


def _content(phrase: str, ignored: dict[str, list[str]]) -> int:
    """Count the characters that are neither in a word to ignore nor function words."""
    content = at = 0
    while at < len(phrase):
        word = next((word for word in ignored.get(phrase[at], ()) if phrase.startswith(word, at)), None)
        if word is not None:
            at += len(word)
            continue
        content += phrase[at] not in _FUNCTION
        at += 1
    return content
