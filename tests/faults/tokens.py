"""What the model of the fault suite says: tokens of which no two are alike, and the question that asks for them.

    请沈17讲120句，每秒30句，先想0.5秒，最后停0秒。
    沈17第1遍0，沈17第1遍1，沈17第1遍2，沈17第1遍3，沈17第1遍4。沈17第1遍5，…

A token names its call, the request that it was written for (the model counts the requests of a call) and its place in the
text. So a text tells who wrote each of its parts. Five tokens are a sentence, because a seam is looked for in sentences.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

SENTENCE = 5
"""Tokens of one sentence."""

_TOKEN = re.compile(r"(沈[0-9a-z]+)第(\d+)遍(\d+)([，。])")
_ASK = re.compile(r"请(沈[0-9a-z]+)讲(\d+)句，每秒([\d.]+)句，先想([\d.]+)秒，最后停([\d.]+)秒。")
_END = "。"


class Token(NamedTuple):
    """One token."""

    call: str
    request: int
    """Counts from 1, over all requests that the model is asked for this call."""
    place: int
    """In the call's text, from 0."""

    def __str__(self) -> str:
        return f"{self.call}第{self.request}遍{self.place}{'，' if (self.place + 1) % SENTENCE else _END}"


def read(text: str) -> tuple[list[Token], str]:
    """Take a text apart.

    Returns:
        Its tokens, up to the first character that belongs to none, and what is left from there.
    """
    tokens, at = [], 0
    while match := _TOKEN.match(text, at):
        token = Token(match[1], int(match[2]), int(match[3]))
        if str(token) != match[0]:
            break
        tokens.append(token)
        at = match.end()
    return tokens, text[at:]


def last_sentence(text: str) -> str:
    """The last sentence of a text, whether it is finished or not."""
    return text[text.rfind(_END, 0, -1) + 1 :]


@dataclass(frozen=True)
class Ask:
    """What a call asks for."""

    call: str
    """`沈` and digits or small letters."""
    tokens: int
    per_second: float
    """0: as fast as it can."""
    think: float = 0.0
    """Seconds before the first token of each request."""
    linger: float = 0.0
    """Seconds between the last token and the word that it was the last."""

    def __str__(self) -> str:
        return f"请{self.call}讲{self.tokens}句，每秒{self.per_second:g}句，先想{self.think:g}秒，最后停{self.linger:g}秒。"

    @classmethod
    def find(cls, text: str) -> Ask | None:
        """Find it in a message."""
        match = _ASK.search(text)
        return cls(match[1], int(match[2]), *map(float, match.groups()[2:])) if match else None
