"""A plot: the sentences in parts, each with its first and last one, who is in it, and how much is asked and exclaimed."""

from __future__ import annotations

import re
from typing import Any

from services.llm.offline.quoting import quote_chinese
from services.text.chapters import flaws

from .material import NOTHING, Material, Piece, wanted_number

BEATS = 5
"""Without a number in the task."""

MOST_CLUES = 3

_TURN = re.compile("可是|但是|然而|不许|不能|却|但|只有")
_LOUD = re.compile("[！？!?“「…]")


def plot(material: Material, most: int) -> dict[str, Any]:
    """Write a plot of at most so many steps."""
    pieces = material.pieces(min(wanted_number(material.task, "步") or BEATS, most))
    turn = next((sentence for sentence in material.sentences if _TURN.search(sentence)), "")
    against = f"最早一句含转折的话是{quote_chinese(turn)}" if turn else "没有含转折词的句子。"
    tensions = _tensions(pieces)
    return {
        "conflict": f"{material.label}{against}",
        "beats": [
            {
                "order": i + 1,
                "event": _first(piece),
                "cause": f"接第{i}步的末句：{_last(pieces[i - 1])}" if i else "这是所给文字的开头。",
                "result": _last(piece),
                "characters": [one.name for one in material.named_in(piece.text)],
                "tension": tensions[i],
            }
            for i, piece in enumerate(pieces)
        ],
        "foreshadowing": _clues(material, pieces)[:MOST_CLUES],
        "risks": _risks(material, most),
    }


def _first(piece: Piece) -> str:
    return f"{piece.where}：{quote_chinese(piece.sentences[0])}" if piece.sentences else NOTHING


def _last(piece: Piece) -> str:
    return quote_chinese(piece.sentences[-1]) if piece.sentences else NOTHING


def _tensions(pieces: list[Piece]) -> list[int]:
    """From 1 to 5: how many marks of asking, exclaiming and speaking a sentence has, beside the part that has the most."""
    loud = [len(_LOUD.findall(piece.text)) / max(1, len(piece.sentences)) for piece in pieces]
    return [1 + round(4 * one / max(loud)) if max(loud) else 1 for one in loud]


def _clues(material: Material, pieces: list[Piece]) -> list[dict[str, str]]:
    found = []
    for phrase in material.phrases:
        where = [i for i, piece in enumerate(pieces) if phrase in piece.text]
        if len(where) > 1:
            found.append(
                {
                    "clue": f"“{phrase}”",
                    "planted": f"第{where[0] + 1}步首次出现",
                    "payoff": f"第{where[-1] + 1}步再次出现",
                }
            )
    return found


def _risks(material: Material, most: int) -> list[str]:
    once = [f"{one.name}只出现一次，没有下文。" for one in material.people if one.count == 1]
    numbers = [f"章号有误：{one.unit}的第{one.number}处。" for one in flaws(list(material.chapters))]
    return (numbers + once)[:most]
