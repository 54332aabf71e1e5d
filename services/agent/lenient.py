"""Reads the JSON that models write: in a fence, after a few words, with commas, quotes and brackets that JSON does not know.

What is put right is the writing, never the content. A text that breaks off is not closed by a rule: what is missing there, only
the model can say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MOST_DEPTH = 64
MOST_STARTS = 8
"""Places where an object may begin that are tried."""

_FENCE = re.compile(r"```[ \t]*+[A-Za-z0-9_+-]*+[ \t]*+\r?\n(.*?)(?:\r?\n[ \t]*```|$)", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:[.．]\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = re.compile(r"(?:[\s\u3000\ufeff]|//[^\n]{0,300}|/\*.{0,300}?\*/)+", re.DOTALL)
"""Comments are bounded: what follows a quote is looked at again and again."""

_OBJECT, _OBJECT_END = "{｛", "}｝"
_ARRAY, _ARRAY_END = "[［", "]］"
_COMMA, _COLON = ",，", ":："
_QUOTES = {'"': '"', "“": '”"', "”": '”"', "'": "'", "‘": "’", "「": "」"}
"""Which quotes open a text, and which may close it."""

_WORDS: dict[str, Any] = {
    "true": True, "false": False, "null": None, "True": True, "False": False, "None": None,
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class Unreadable(Exception):
    """There is no JSON object here. The message says in Chinese what is wrong, for the model that wrote it."""


class BreaksOff(Unreadable):
    """The text ends in the middle."""

    def __init__(self) -> None:
        super().__init__("写到一半就结束了")


def read(text: str) -> Iterator[tuple[Any, bool]]:
    """Find the JSON in an answer.

    Yields:
        What may be meant, the most likely first, and whether it was plain JSON and nothing else.

    Raises:
        Unreadable: nothing was found, or something there could not be read.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a character is none
        yield value, True
        return
    except (ValueError, RecursionError):
        pass
    text = text.rpartition("</think>")[2]
    problem, found = "", False
    for part in [*(match[1] for match in _FENCE.finditer(text)), text]:
        at, tried = 0, 0
        while tried < MOST_STARTS and (start := _next_object(part, at)) >= 0:
            tried += 1
            try:
                value, at = _Reader(part).value(start, 0)
            except BreaksOff as e:
                problem = problem or str(e)
                break  # what is whole inside it is a part, not the answer
            except Unreadable as e:
                problem = problem or str(e)
                at = start + 1
                continue
            found = True
            yield value, False
    if problem or not found:
        raise Unreadable(problem or "里面没有 JSON 对象")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _number(written: str) -> int | float:
    """Read a number; its digits may be full-width."""
    written = written.replace("．", ".")
    try:
        return float(written) if any(mark in written for mark in ".eE") else int(written)
    except ValueError:
        raise Unreadable(f"数字“{written[:12]}…”过长") from None


def _next_object(text: str, at: int) -> int:
    return min((found for mark in _OBJECT if (found := text.find(mark, at)) >= 0), default=-1)


class _Reader:
    """One reading of one text. Each method is given a position and returns a value and the position after it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        at = self._blank(at)
        char = self._char(at)
        if depth > MOST_DEPTH:
            raise Unreadable("嵌套过深")
        if char in _OBJECT:
            return self._object(at + 1, depth)
        if char in _ARRAY:
            return self._array(at + 1, depth)
        if char in _QUOTES:
            return self._string(at, key=False)
        if number := _NUMBER.match(self._text, at):
            return _number(number[0]), number.end()
        if (word := _WORD.match(self._text, at)) and word[0] in _WORDS:
            return _WORDS[word[0]], word.end()
        raise Unreadable(f"“{self._near(at)}”处不是 JSON 的值")

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        while True:
            at = self._blank(at, _COMMA)
            char = self._char(at)
            if char in _OBJECT_END:
                return found, at + 1
            if char in _QUOTES:
                key, at = self._string(at, key=True)
            elif word := _WORD.match(self._text, at):
                key, at = word[0], word.end()
            else:
                raise Unreadable(f"“{self._near(at)}”处应当是键名或“}}”")
            at = self._blank(at)
            if self._char(at) not in _COLON:
                raise Unreadable(f"键“{key[:20]}”后面缺少冒号")
            found[key], at = self.value(at + 1, depth + 1)

    def _array(self, at: int, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        while True:
            at = self._blank(at, _COMMA)
            if self._char(at) in _ARRAY_END:
                return found, at + 1
            item, at = self.value(at, depth + 1)
            found.append(item)

    def _string(self, at: int, *, key: bool) -> tuple[str, int]:
        closing = _QUOTES[self._text[at]]
        said: list[str] = []
        at += 1
        while True:
            char = self._char(at)
            if char == "\\":
                piece, at = self._escape(at + 1)
                said.append(piece)
                continue
            if char in closing and self._closes(at, key=key):
                return "".join(said), at + 1
            said.append(char)
            at += 1

    def _escape(self, at: int) -> tuple[str, int]:
        char = self._char(at)
        if char == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", digits := self._text[at + 1 : at + 5]):
            code = int(digits, 16)
            if 0xD800 <= code < 0xDC00 and re.fullmatch(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}", self._text[at + 5 : at + 11]):
                low = int(self._text[at + 7 : at + 11], 16)
                return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)), at + 11
            return ("\ufffd" if 0xD800 <= code < 0xE000 else chr(code)), at + 5
        return _ESCAPES.get(char, char), at + 1

    def _closes(self, at: int, *, key: bool) -> bool:
        """Whether a quote ends its text, or is one that the model forgot to escape: then the sentence goes on after it."""
        after = self._blank(at + 1, end_is_fine=True)
        if after >= len(self._text):
            return True
        char = self._text[after]
        if key:
            return char in _COLON
        if char in _OBJECT_END + _ARRAY_END:
            return True
        if char in _COMMA:
            following = self._blank(after + 1, end_is_fine=True)
            if following >= len(self._text):
                return True
            rest = self._text[following]
            return rest in _QUOTES or rest in _OBJECT + _ARRAY + _OBJECT_END + _ARRAY_END or rest.isascii()
        # A comma was forgotten: the next text begins on a line of its own.
        return "\n" in self._text[at + 1 : after] and char in _QUOTES

    def _blank(self, at: int, also: str = "", *, end_is_fine: bool = False) -> int:
        while True:
            if blank := _BLANK.match(self._text, at):
                at = blank.end()
            if at < len(self._text) and self._text[at] in also:
                at += 1
                continue
            if at >= len(self._text) and not end_is_fine:
                raise BreaksOff
            return at

    def _char(self, at: int) -> str:
        if at >= len(self._text):
            raise BreaksOff
        return self._text[at]

    def _near(self, at: int) -> str:
        return self._text[at : at + 12].replace("\n", " ")
