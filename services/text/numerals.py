"""Chinese and Arabic numerals, as they number chapters."""

from __future__ import annotations

import re

_DIGITS = {char: value for value, chars in enumerate(
    ("零〇○Ｏ", "一壹", "二贰貳两兩", "三叁參", "四肆", "五伍", "六陆陸", "七柒", "八捌", "九玖")
) for char in chars}  # fmt: skip
_UNITS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_TENS = {"廿": 20, "卅": 30}

NUMERAL = "0-9０-９" + "".join(_DIGITS) + "".join(_UNITS) + "".join(_TENS) + "万萬"
"""The body of a regex class: what a numeral is made of."""

LONGEST = 12
"""Characters of a numeral; nothing has that many chapters."""

_ARABIC = re.compile(r"[0-9]+")


def value_of(numeral: str) -> int | None:
    """Compute what a numeral stands for: 十二, 一百零五, 一二三, 廿四, 12, １２. None: it is none (十百, 万)."""
    numeral = "".join(chr(ord(char) - 0xFEE0) if "０" <= char <= "９" else char for char in numeral)
    if not numeral or len(numeral) > LONGEST:
        return None
    if _ARABIC.fullmatch(numeral):
        return int(numeral)
    if all(char in _DIGITS for char in numeral):
        # Read digit by digit, as 一二三 is; a single one is just itself.
        return int("".join(str(_DIGITS[char]) for char in numeral))
    high, sign, low = numeral.replace("萬", "万").partition("万")
    if not sign:
        return _below_ten_thousand(numeral)
    thousands = _below_ten_thousand(high)
    rest = _below_ten_thousand(low) if low else 0
    return None if not thousands or rest is None else thousands * 10_000 + rest


def _below_ten_thousand(numeral: str) -> int | None:
    total = 0
    digit: int | None = None
    last_unit = 10_000
    for char in numeral:
        if char in _TENS:
            if digit is not None or last_unit <= 10:
                return None
            total, last_unit = total + _TENS[char], 10
        elif char in _UNITS:
            unit = _UNITS[char]
            if unit >= last_unit or digit == 0 or (digit is None and (unit != 10 or total % 100)):
                return None
            total, last_unit, digit = total + (1 if digit is None else digit) * unit, unit, None
        elif char in _DIGITS:
            if digit:  # two digits without a unit between them
                return None
            digit = _DIGITS[char]
        else:
            return None
    if digit and last_unit <= 1:
        return None
    return total + (digit or 0) if numeral else None


def numeral_of(value: int) -> str:
    """Write a number from 1 to 9999 as Chinese does: 十二, 一百零五.

    Raises:
        ValueError: it is outside that range.
    """
    if not 1 <= value <= 9999:
        raise ValueError(f"{value} is not from 1 to 9999")
    digits = "零一二三四五六七八九"
    written, gap = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = value // unit % 10
        if digit:
            written += ("零" if gap and written else "") + digits[digit] + name
        gap = not digit
    return written.removeprefix("一") if 10 <= value < 20 else written
