"""Character sheets: who is named, in which sentences, with whom, and what stands in quotation marks beside the name."""

from __future__ import annotations

import re
from typing import Any

from services.llm.offline.chinese import LABEL
from services.llm.offline.quoting import quote_chinese, tidy
from services.text.quotes import passages

from .material import NOTHING, Material, Someone

NEAR = 14
"""Characters before a quoted passage in which the name of its speaker stands."""

MOST_RELATIONS = 4

_WANTS = re.compile("想要|必须|打算|决定|不许|一定|想|要|求|找")
_FEARS = re.compile("不敢|沉默|犹豫|发抖|颤|抖|没有回答|听不得|怕|忘")


def characters(material: Material, most: int) -> dict[str, Any]:
    """Write the sheets of at most so many people."""
    return {
        "characters": [_sheet(material, one, i) for i, one in enumerate(material.people[:most])] or [_nobody(material)]
    }


def _sheet(material: Material, one: Someone, rank: int) -> dict[str, Any]:
    inside = [sentence for sentence in material.sentences if one.is_in(sentence)]
    label = LABEL if rank else material.label
    sheet = material.sheets.get(one.name)
    said = _said_by(material, one)
    speaks = f"，另有{len(said)}处引语紧跟在名字后面" if said else ""
    return {
        "name": one.name,
        "aliases": list(one.others),
        "role": "主角" if rank == 0 else "配角" if one.count > 1 else "其他",
        "appearance": f"{label}资料里写：{quote_chinese(sheet)}"
        if sheet
        else f"{label}首次出现在{_quoted(inside[:1])}",
        "personality": [f"出现：全文提到{one.count}次，分布在{len(inside)}句里{speaks}。"],
        "desire": _clue([sheet or "", *inside], _WANTS),
        "weakness": _clue([sheet or "", *inside], _FEARS),
        "voice": f"名字后面的引语，第一处是{quote_chinese(said[0])}" if said else NOTHING,
        "arc": _arc(inside),
        "relations": _relations(material, one),
    }


def _nobody(material: Material) -> dict[str, Any]:
    return {
        "name": "未辨认出人名",
        "role": "其他",
        "appearance": material.label,
        "personality": [f"所给文字有{len(material.sentences)}句，按姓氏和前后文没有辨认出人名。"],
        **dict.fromkeys(("desire", "weakness", "voice", "arc"), NOTHING),
    }


def _said_by(material: Material, one: Someone) -> list[str]:
    """Passages in quotation marks with the name shortly before them, in the same sentence."""
    text = material.story
    found = []
    for passage in passages(text):
        before = re.split("[。！？”\n]", text[max(0, passage.start - NEAR) : passage.start - 1])[-1]
        if one.is_in(before) and (inside := tidy(text[passage.start : passage.end], 40, "……")):
            found.append(inside)
    return found


def _clue(inside: list[str], words: re.Pattern[str]) -> str:
    for sentence in inside:
        if match := words.search(sentence):
            return f"含“{match[0]}”的一句：{quote_chinese(sentence)}"
    return NOTHING


def _quoted(some: list[str]) -> str:
    return quote_chinese(some[0]) if some else NOTHING


def _arc(inside: list[str]) -> str:
    if len(inside) < 2:
        return f"只有一句提到：{_quoted(inside)}" if inside else NOTHING
    return f"起点：{_quoted(inside[:1])}终点：{_quoted(inside[-1:])}"


def _relations(material: Material, one: Someone) -> list[dict[str, str]]:
    together = []
    for other in material.people:
        times = sum(1 for sentence in material.sentences if one.is_in(sentence) and other.is_in(sentence))
        if other is not one and times:
            together.append((times, other.name))
    together.sort(key=lambda pair: -pair[0])
    return [{"name": name, "relation": f"有{times}句同时提到两人"} for times, name in together[:MOST_RELATIONS]]
