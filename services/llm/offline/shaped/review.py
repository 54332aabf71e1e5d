"""A review: what can be measured in a manuscript, with points taken off for each thing that was found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from services.text.chapters import flaws
from services.text.counting import count, dialogue_share
from services.text.repeats import repeats
from services.text.script import HAN

from .material import Material

LONG_SENTENCE = 60
LONG_PARAGRAPH = 200
"""字."""

NEAR = 300
"""Characters within which a phrase that comes again is noticed."""

MANY_DE = 4

LONGEST_QUOTE = 40

TAKEN_OFF = {"严重": 12, "一般": 6, "轻微": 2}

VERDICTS = ((85, "可用"), (70, "小改"), (50, "大改"), (0, "重写"))
"""From so many points on."""

_HALF_WIDTH = re.compile(f"[{HAN}]{{1,8}}[,.!?;:](?=[{HAN}]|$)[{HAN}]{{0,8}}", re.MULTILINE)

_WORDS = {"gap": "缺号", "duplicate": "重号", "backward": "倒退"}


def review(material: Material, most: int) -> dict[str, Any]:
    """Write a review with at most so many issues; all that was found counts."""
    if not material.is_given:
        missing = _issue("严重", "其他", "", "这次没有附原稿，只有任务。", "把原稿放进资料，再审一次。")
        return {"score": 0, "verdict": "重写", "summary": material.label, "strengths": [], "issues": [missing]}
    found = list(_found(material))
    score = max(0, 100 - sum(TAKEN_OFF[one["severity"]] for one in found))
    counted = "、".join(f"{severity}{n}处" for severity in TAKEN_OFF if (n := _how_many(found, severity)))
    measured = f"量得{counted}，由此扣分" if counted else "量得的项目都没有超限"
    return {
        "score": score,
        "verdict": next(verdict for least, verdict in VERDICTS if score >= least),
        "summary": f"{material.label}{measured}；情节和人物没有读懂，不评。",
        "strengths": _strengths(material),
        "issues": found[:most],
    }


def _how_many(found: list[dict[str, str]], severity: str) -> int:
    return sum(1 for one in found if one["severity"] == severity)


def _found(material: Material) -> Iterator[dict[str, str]]:
    for flaw in flaws(list(material.chapters)):
        numbers = f"{flaw.number}" if flaw.number == flaw.last else f"{flaw.number}至{flaw.last}"
        yield _issue(
            "严重",
            "逻辑",
            _line(material.story, flaw.at),
            f"{flaw.unit}号{_WORDS[flaw.kind]}：{numbers}。",
            "核对章号。",
        )
    names = [name for one in material.people for name in (one.name, *one.others)]
    for repeat in repeats(material.story, 4, 12, NEAR):
        if not any(name in repeat.text for name in names):
            times = len(repeat.positions)
            problem = f"“{repeat.text}”在相距{NEAR}字以内出现{times}次。"
            yield _issue("一般" if times > 2 else "轻微", "文笔", repeat.text, problem, "留一处，其余删去或换个说法。")
    for sentence in material.sentences:
        if (size := count(sentence).zi) > LONG_SENTENCE:
            yield _issue("一般", "节奏", sentence, f"这一句有{size}字，超过{LONG_SENTENCE}字。", "断成两三句。")
        if (de := sentence.count("的")) >= MANY_DE:
            yield _issue("轻微", "文笔", sentence, f"一句里有{de}个“的”。", "拆开长定语。")
    for line in material.story.splitlines():
        if (size := count(line).zi) > LONG_PARAGRAPH:
            yield _issue("轻微", "节奏", line, f"这一段有{size}字，超过{LONG_PARAGRAPH}字。", "按意思分段。")
    for half in _HALF_WIDTH.finditer(material.story):
        yield _issue("轻微", "错别字", half[0], "中文里用了半角标点。", "换成全角标点。")


def _issue(severity: str, kind: str, quote: str, problem: str, suggestion: str) -> dict[str, str]:
    """One entry. The quotation is word for word, from its beginning."""
    return {
        "severity": severity,
        "kind": kind,
        "quote": quote.strip()[:LONGEST_QUOTE],
        "problem": problem,
        "suggestion": suggestion,
    }


def _line(text: str, at: int) -> str:
    return text[at:].partition("\n")[0]


def _strengths(material: Material) -> list[str]:
    said = []
    if share := dialogue_share(material.story):
        said.append(f"有对话，引号里的文字占{share * 100:.0f}%。")
    if material.sentences:
        average = sum(count(sentence).zi for sentence in material.sentences) / len(material.sentences)
        if average <= LONG_SENTENCE / 2:
            said.append(f"句子不长，平均每句{average:.0f}字。")
    return said
