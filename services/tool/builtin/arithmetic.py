"""Arithmetic on an expression, exact: read by a recursive descent, computed with fractions, bounded at each step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from services.tool.errors import ToolFailed

MOST_TOKENS = 500
DEEPEST = 50
"""Brackets, signs and powers within each other."""
LARGEST_EXPONENT = 1000
MOST_BITS = 13_000
"""Of a numerator or a denominator: some 3,900 digits, less than what Python writes in one piece."""

_FOLDED = {
    **{0xFF10 + n: str(n) for n in range(10)},
    **str.maketrans("＋－−–×✕·⋅＊÷／％＾（）［］｛｝【】，．　", "+---*****//%^()()()(),. "),
    **str.maketrans("[]{}", "()()"),
}
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<sign>\*\*|[-+*/%^()]|加上|加|减去|減去|减|減|乘以|乘|除以|的平方|的立方|万亿|萬億|万|萬|亿|億|千|百)"
)
_WORDS = {
    "加上": "+", "加": "+", "减去": "-", "減去": "-", "减": "-", "減": "-", "乘以": "*", "乘": "*", "除以": "/", "**": "^",
}  # fmt: skip
_SCALES = {"百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8, "万亿": 10**12, "萬億": 10**12}
_POWERS = {"的平方": 2, "的立方": 3}


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    """A number, or an operator in its short form."""
    at: int
    """Of its first character in the expression, from 1."""
    is_number: bool


def compute(expression: str) -> Fraction:
    """Compute an expression exactly.

    Raises:
        ToolFailed: it is no expression, it divides by zero, or it is too large. With the place, characters counted from 1.
    """
    reader = _Reader(_tokens(expression), len(expression) + 1)
    value = reader.sum(0)
    if reader.token is not None:
        raise _wrong(reader.token)
    return value


def _tokens(expression: str) -> list[_Token]:
    folded = expression.translate(_FOLDED)
    found: list[_Token] = []
    at = 0
    while at < len(folded):
        if folded[at].isspace():
            at += 1
            continue
        match = _TOKEN.match(folded, at)
        if match is None:
            shown = expression[at]
            raise ToolFailed(
                f"Character {at + 1} ({shown}) is no part of an expression", f"第 {at + 1} 个字符“{shown}”无法识别"
            )
        found.append(_Token(_WORDS.get(match[0], match[0]), at + 1, match["number"] is not None))
        at = match.end()
    if len(found) > MOST_TOKENS:
        raise ToolFailed(
            f"The expression has {len(found)} numbers and signs; the limit is {MOST_TOKENS}",
            f"算式含 {len(found)} 个数字与符号，超过上限 {MOST_TOKENS}",
        )
    return found


def _wrong(token: _Token) -> ToolFailed:
    return ToolFailed(
        f"Character {token.at} ({token.text}) is not expected there",
        f"第 {token.at} 个字符“{token.text}”不应出现在此处",
    )


class _Reader:
    """Reads tokens from the left. Each method reads one level of precedence and returns its value."""

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self._tokens = tokens
        self._next = 0
        self._end = end

    @property
    def token(self) -> _Token | None:
        """The next one; None: there is none."""
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, *signs: str) -> _Token | None:
        token = self.token
        if token is None or token.is_number or token.text not in signs:
            return None
        self._next += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while sign := self._take("+", "-"):
            other = self._product(depth)
            value = _bounded(value + other if sign.text == "+" else value - other, sign)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._signed(depth)
        while sign := self._take("*", "/"):
            other = self._signed(depth)
            if sign.text == "/" and other == 0:
                raise ToolFailed(f"Division by zero at character {sign.at}", f"第 {sign.at} 个字符处除数为零")
            value = _bounded(value * other if sign.text == "*" else value / other, sign)
        return value

    def _signed(self, depth: int) -> Fraction:
        """A sign binds less than a power: -2^2 is -4."""
        self._check(depth)
        if sign := self._take("+", "-"):
            value = self._signed(depth + 1)
            return -value if sign.text == "-" else value
        return self._power(depth)

    def _power(self, depth: int) -> Fraction:
        """Powers group from the right: 2^3^2 is 512."""
        base = self._postfix(depth)
        sign = self._take("^")
        return base if sign is None else _raised(base, self._signed(depth + 1), sign)

    def _postfix(self, depth: int) -> Fraction:
        """Scales (3万), per cent (50%) and 的平方 stand behind what they belong to."""
        value = self._primary(depth)
        while sign := self._take("%", *_SCALES, *_POWERS):
            if sign.text in _POWERS:
                value = _raised(value, Fraction(_POWERS[sign.text]), sign)
            else:
                value = _bounded(value * _SCALES.get(sign.text, Fraction(1, 100)), sign)
        return value

    def _primary(self, depth: int) -> Fraction:
        token = self.token
        if token is None:
            raise ToolFailed(f"A number is missing at character {self._end}", f"第 {self._end} 个字符处缺少数字")
        if token.is_number:
            self._next += 1
            return Fraction(token.text.replace(",", ""))
        if self._take("(") is None:
            raise _wrong(token)
        value = self.sum(depth + 1)
        if self._take(")") is None:
            raise ToolFailed(
                f"The bracket at character {token.at} is not closed", f"第 {token.at} 个字符处的括号没有闭合"
            )
        return value

    def _check(self, depth: int) -> None:
        if depth > DEEPEST:
            raise ToolFailed(f"More than {DEEPEST} levels within each other", f"嵌套超过 {DEEPEST} 层")


def _raised(base: Fraction, exponent: Fraction, sign: _Token) -> Fraction:
    if exponent.denominator != 1:
        raise ToolFailed(
            f"The exponent at character {sign.at} is not a whole number; its power may not be exact",
            f"第 {sign.at} 个字符处的指数不是整数，无法精确计算",
        )
    if abs(exponent) > LARGEST_EXPONENT:
        raise ToolFailed(
            f"The exponent at character {sign.at} is beyond {LARGEST_EXPONENT}",
            f"第 {sign.at} 个字符处的指数超过上限 {LARGEST_EXPONENT}",
        )
    if base == 0 and exponent <= 0:
        raise ToolFailed(
            f"Zero to a power that is not positive, at character {sign.at}", f"第 {sign.at} 个字符处：零的指数应为正数"
        )
    if _bits(base) * abs(int(exponent)) > MOST_BITS:
        raise _too_large(sign)
    return _bounded(base ** int(exponent), sign)


def _bounded(value: Fraction, sign: _Token) -> Fraction:
    if _bits(value) > MOST_BITS:
        raise _too_large(sign)
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _too_large(sign: _Token) -> ToolFailed:
    return ToolFailed(f"The result at character {sign.at} has too many digits", f"第 {sign.at} 个字符处的结果位数过多")
