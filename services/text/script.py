"""Which characters are what: Chinese, full-width marks, words of other scripts, emoji. Bodies of regex classes, in ranges.

Python's `re` knows no Unicode scripts, so the ranges are written out (blocks of Unicode 15, and room in planes 2 and 3).
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["zh", "en"]

HAN = (
    "\u2e80-\u2fdf"  # radicals
    "\u3005-\u3007\u3021-\u3029\u3038-\u303b"  # 々〆〇 and other marks that stand for a character
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Chinese characters."""

CJK = (
    HAN + "\u3031-\u3035\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3100-\u312f\u31a0-\u31bf"  # bopomofo
    "\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb\uffa1-\uffdc"  # hangul
)
"""Characters that are counted one by one: Chinese, kana, bopomofo, hangul."""

CJK_MARK = (
    "\u3001-\u3004\u3008-\u3020\u302a-\u3030\u3036-\u3037\u303c-\u303f\u30a0\u30fb"  # 、。《》「」【】〜・
    "\ufe10-\ufe1f\ufe30-\ufe4f"  # upright forms for vertical lines
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"  # ！（），：；？
)
"""Full-width punctuation that only CJK text uses."""

WIDE_MARK = CJK_MARK + "\u00b7\u2014\u2015\u2018\u2019\u201c\u201d\u2026\u22ef"
"""All full-width punctuation: also quotation marks, dashes and ellipses, whose code points English shares (·—‘’“”…)."""

INVISIBLE = (
    "\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # controls and spaces
    "\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # joiners and directions
    "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters that are blank
    "\ufe00-\ufe0f\U000e0000-\U000e0fff"  # variation selectors and tags
)
"""What leaves no ink."""

_PICTURE = (
    "[\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b55"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
_DRESS = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*+"
EMOJI = f"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f\u20e3|{_PICTURE}{_DRESS}(?:\u200d{_PICTURE}{_DRESS})*+"
"""A regex, not a class: one emoji as a reader sees it, with skin tone and joined parts (UTS #51, without its tables)."""

_LETTER = f"[^\\W_{CJK}]"
WORD = f"{_LETTER}(?:[^\\W_{CJK}\u0300-\u036f]|[\u0300-\u036f]|['’\\-]{_LETTER}|(?<=[0-9])[.,:](?=[0-9]))*+"
"""A regex: a run of letters or digits of a script with spaces. don't, well-known, 3.14 and 10,000 are one each."""

_CHINESE = re.compile(f"[{CJK}{CJK_MARK}]")
_ALPHABETIC = re.compile(f"[^\\W\\d_{CJK}]")


def language(text: str) -> Language | None:
    """Tell the language to answer in: Chinese if anything in it is, English for any other letters, None without letters."""
    if _CHINESE.search(text):
        return "zh"
    return "en" if _ALPHABETIC.search(text) else None
