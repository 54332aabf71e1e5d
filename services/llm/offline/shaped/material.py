"""What an answer in JSON is made of: the texts that the prompt gives, cut into sentences, and who and what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.llm.model import Turn
from services.llm.offline.chinese import LABEL
from services.llm.offline.elements import elements
from services.text.chapters import Chapter, split
from services.text.counting import count, sentences
from services.text.names import find_names
from services.text.numerals import NUMERAL, value_of
from services.text.people import people
from services.text.repeats import repeats
from services.text.script import HAN, language

MOST_READ = 100_000
"""Characters of the texts that are read."""

MOST_PEOPLE = 30

TASK = "任务"

NOTHING = "所给文字没有写明。"

_SHEET = re.compile(f"^([{HAN}·]{{2,6}})[：:](.*)$", re.MULTILINE)
_SHEETS = re.compile("人物|角色")
"""In the name of a text whose lines begin with the people that they are about."""

_ASIDE = re.compile("人物|角色|设定|文风")
"""In the name of a text that tells no story."""


@dataclass(frozen=True, slots=True)
class Someone:
    """Somebody in the texts."""

    name: str
    others: tuple[str, ...]
    """Other names, without this one."""
    count: int
    """How often all of them stand there."""

    def is_in(self, text: str) -> bool:
        """Whether one of the names stands in a text."""
        return any(name in text for name in (self.name, *self.others))

    def times_in(self, text: str) -> int:
        """How often the name stands in a text."""
        return text.count(self.name)


@dataclass(frozen=True, slots=True)
class Piece:
    """Sentences that follow each other."""

    first: int
    """Which one of all the first is, counted from 1."""
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of them."""
        return "".join(self.sentences)

    @property
    def where(self) -> str:
        """Which sentences these are."""
        last = self.first + len(self.sentences) - 1
        return f"第{self.first}句" if last == self.first else f"第{self.first}至{last}句"


@dataclass(frozen=True, slots=True)
class Material:
    """What was given."""

    task: str
    story: str
    """The texts in the order of the prompt, without sheets and settings if there are others; the task, if there are none."""
    is_given: bool
    """Whether there is any text beside the task."""
    chapters: tuple[Chapter, ...]
    """Of the story, by its headings."""
    sentences: tuple[str, ...]
    """Of the story, without its headings."""
    people: tuple[Someone, ...]
    """Those who are named most often first."""
    sheets: Mapping[str, str]
    """By name: what a sheet of characters says."""
    phrases: tuple[str, ...]
    """That stand in the story more than once."""
    tools: tuple[str, ...]
    """That were called."""

    @property
    def label(self) -> str:
        """What every answer must say of itself: where it comes from."""
        tools = f"调用过{'、'.join(self.tools)}。" if self.tools else ""
        given = (
            f"输入里的{count(self.story).zi}字、{len(self.sentences)}句" if self.is_given else "任务本身，没有附资料"
        )
        return f"{LABEL}没有接入大语言模型，这里的每一项都是按固定规则取自{given}。{tools}"

    def named_in(self, text: str, most: int = 4) -> list[Someone]:
        """Who is named in a part of it."""
        return [one for one in self.people if one.is_in(text)][:most]

    def pieces(self, wanted: int) -> list[Piece]:
        """Cut the sentences into so many parts of one length, or as many as there are sentences; at least one part, if empty."""
        parts = max(1, min(wanted, len(self.sentences)))
        cuts = [len(self.sentences) * i // parts for i in range(parts + 1)]
        return [Piece(a + 1, self.sentences[a:b]) for a, b in pairwise(cuts)]


def gather(turns: Sequence[Turn]) -> Material:
    """Read what an agent was given: the last message of the user's that has elements, or the last one."""
    asked = [turn.content for turn in turns if turn.role == "user"] or [""]
    found = next((inside for text in reversed(asked) if (inside := list(elements(text)))), [])
    task = next((one.text for one in reversed(found) if one.tag == TASK), asked[-1] if not found else "")
    given = [one for one in found if one.tag != TASK and one.text.strip()]
    told = [one for one in given if not _ASIDE.search(one.name)] or given
    story = ("\n\n".join(one.text for one in told) or task)[:MOST_READ]
    sheets = {name: said for one in given if _SHEETS.search(one.name) for name, said in _SHEET.findall(one.text)}
    chapters = tuple(split(story))
    body = "\n".join(story[one.body : one.end] for one in chapters)
    return Material(
        task=task,
        story=story,
        is_given=bool(given),
        chapters=chapters,
        sentences=tuple(sentences(body)),
        people=tuple(_people(story, sheets)),
        sheets=sheets,
        phrases=tuple(one.text for one in repeats(story, 4, 8, len(story) or 1)[:MOST_PEOPLE]),
        tools=tuple(dict.fromkeys(call.name for turn in turns for call in turn.tool_calls)),
    )


def _people(story: str, sheets: Iterable[str]) -> list[Someone]:
    """Who is in the story: those whom services.text finds, and those of the sheets."""
    found = [Someone(p.name, tuple(f.text for f in p.forms if f.text != p.name), p.count) for p in people(story)]
    if not found:
        found = [Someone(name.text, (), name.count) for name in find_names(story, language(story) or "zh")]
    known = {name for one in found for name in (one.name, *one.others)}
    found += [Someone(name, (), story.count(name)) for name in sheets if name not in known]
    return sorted(found, key=lambda one: -one.count)[:MOST_PEOPLE]


def wanted_number(task: str, unit: str) -> int | None:
    """Read how many of something a task asks for: 五章, 十个章节, 3 步. 第五章 asks for none.

    Args:
        unit: the body of a regex class.
    """
    for match in re.finditer(rf"(?<![第{NUMERAL}])([{NUMERAL}]{{1,3}}) ?个?[{unit}]", task):
        if number := value_of(match[1]):
            return number
    return None


def named(those: Sequence[Someone], text: str) -> str:
    """Put into words who is named in a text, and how often."""
    return "、".join(f"{one.name}（{one.times_in(text)}次）" for one in those if one.times_in(text))
