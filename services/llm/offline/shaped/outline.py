"""An outline: the headings that the texts have, or else parts of their sentences."""

from __future__ import annotations

import re
from typing import Any

from services.llm.offline.quoting import quote_chinese, tidy
from services.text.chapters import Chapter
from services.text.counting import count, sentences

from .material import NOTHING, Material, Piece, named, wanted_number

CHAPTERS = 3
"""Without a number in the task."""

LONGEST_TITLE = 10

MOST_PLANTED = 3

_BOOK = re.compile("《([^《》\n]{1,30})》")
_CLAUSE = re.compile("[，。！？；：、,.!?;:…—“”「」\\s]+")


def outline(material: Material, most: int) -> dict[str, Any]:
    """Write an outline of at most so many chapters."""
    heads = [one for one in material.chapters if one.kind == "chapter"][:most]
    if len(heads) > 1:
        made = _by_headings(material, heads)
        came = f"章节是资料里的{len(heads)}个章题。"
    else:
        pieces = material.pieces(min(wanted_number(material.task, "章回") or CHAPTERS, most))
        made = [(i + 1, "", piece) for i, piece in enumerate(pieces)]
        came = f"按句数分成{len(pieces)}份，每份一章。"
    texts = [piece.text for _, _, piece in made]
    book = _BOOK.search(material.story) or _BOOK.search(material.task)
    first = material.sentences[0] if material.sentences else material.task
    return {
        "title": book[1] if book else _clause(first),
        "premise": f"{material.label}{came}{_who(material)}",
        "chapters": [
            {
                "number": number,
                "title": title or _clause(piece.text),
                "summary": _summary(material, piece),
                "hook": f"收在{quote_chinese(piece.sentences[-1])}" if piece.sentences else NOTHING,
                "foreshadowing": _planted(material, texts, i),
            }
            for i, (number, title, piece) in enumerate(made)
        ],
    }


def _by_headings(material: Material, heads: list[Chapter]) -> list[tuple[int, str, Piece]]:
    numbers = [one.number or 0 for one in heads]
    # Numbers that do not count up, or that a heading lacks, are of no use.
    keep = all(a < b for a, b in zip([0, *numbers], numbers, strict=False))
    made, first = [], 1
    for i, one in enumerate(heads):
        inside = tuple(sentences(material.story[one.body : one.end]))
        made.append((numbers[i] if keep else i + 1, tidy(one.title, 30, "……"), Piece(first, inside)))
        first += len(inside)
    return made


def _who(material: Material) -> str:
    those = named(material.people[:4], material.story)
    return f"其中的人名有{those}。" if those else "没有辨认出人名。"


def _summary(material: Material, piece: Piece) -> str:
    if not piece.sentences:
        return "此处只有标题，没有正文。"
    those = named(material.named_in(piece.text), piece.text)
    who = f"，提到{those}" if those else ""
    return f"{piece.where}，共{count(piece.text).zi}字{who}。起于{quote_chinese(piece.sentences[0])}"


def _planted(material: Material, texts: list[str], i: int) -> list[str]:
    found = []
    for phrase in material.phrases:
        again = next((n for n in range(i + 1, len(texts)) if phrase in texts[n]), None)
        if phrase in texts[i] and again is not None:
            found.append(f"“{phrase}”在后面第{again + 1}份文字里再次出现。")
    return found[:MOST_PLANTED]


def _clause(text: str) -> str:
    """The first clause of a text, as a title."""
    first = next((part for part in _CLAUSE.split(text) if part), "")
    return tidy(first, LONGEST_TITLE, "…") or "无题"
