"""The tool calculate: an expression, computed exactly."""

from __future__ import annotations

from fractions import Fraction

from pydantic import BaseModel, Field

from services.tool.definition import Parameters, tool

from .arithmetic import compute

LONGEST_EXPRESSION = 1000

MOST_PLACES = 100
"""Decimal places that a result is written with when it has no end, or more of them."""


class CalculateParameters(Parameters):
    """What to compute."""

    expression: str = Field(
        min_length=1,
        max_length=LONGEST_EXPRESSION,
        description="算式：数字、加减乘除（+ - * / × ÷ 或 加、减、乘、除以）、乘方 ^、百分号 %、括号；可用 万、亿，全角亦可。",
    )
    places: int = Field(default=20, ge=0, le=MOST_PLACES, description="结果除不尽时保留的小数位数，四舍五入。")


class Calculated(BaseModel):
    """The result."""

    value: str = Field(description="十进制结果")
    exact: bool = Field(description="value 是否精确；否则为四舍五入后的值")
    fraction: str = Field(description="最简分数，整数则为整数本身")


@tool(category="math")
def calculate(parameters: CalculateParameters) -> Calculated:
    """精确计算一个算式（任意位整数、小数与分数，不用浮点数），给出十进制结果与最简分数。凡需要算数时用它，不要自己心算。

    `%` is always per cent: 50% is 1/2. There is no remainder.
    """
    value = compute(parameters.expression)
    text, exact = decimal_of(value, parameters.places)
    return Calculated(value=text, exact=exact, fraction=str(value))


def decimal_of(value: Fraction, places: int) -> tuple[str, bool]:
    """Write a number in decimal.

    Args:
        places: that are kept if it has no end within MOST_PLACES; half is rounded away from zero.

    Returns:
        The text, and whether it is exact.
    """
    needed = _places(value.denominator)
    exact = needed is not None
    kept = places if needed is None else needed
    scaled = abs(value.numerator) * 10**kept
    digits = str((2 * scaled + value.denominator) // (2 * value.denominator)).rjust(kept + 1, "0")
    whole, part = (digits[:-kept], digits[-kept:]) if kept else (digits, "")
    sign = "-" if value < 0 and digits.strip("0") else ""
    return sign + whole + ("." + part if part else ""), exact


def _places(denominator: int) -> int | None:
    """How many places an exact decimal has; None: more than MOST_PLACES, or no end."""
    twos = fives = 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    needed = max(twos, fives)
    return needed if denominator == 1 and needed <= MOST_PLACES else None
