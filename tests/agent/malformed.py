"""Twenty ways in which models get an answer in JSON wrong, for each of the four shapes: what becomes of each."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

SAMPLES: dict[str, dict[str, Any]] = {
    "outline": {
        "title": "雁回渡",
        "premise": "船夫之子要在封河之前把妹妹送过渡口，代价是说出父亲的死因",
        "chapters": [
            {
                "number": 1,
                "title": "封河",
                "summary": "沈舟得知三日后封河。他去求船，被赶了出来。",
                "hook": "赶他的人袖口有父亲的船牌，第四章兑现",
                "foreshadowing": ["埋：船牌上少了一道刻痕"],
            },
            {"number": 2, "title": "夜渡", "summary": "他偷船，撞见巡河的灯。", "hook": "灯灭了", "foreshadowing": []},
        ],
    },
    "character": {
        "characters": [
            {
                "name": "沈舟",
                "aliases": ["小船夫"],
                "role": "主角",
                "appearance": "左手缺一截小指",
                "personality": ["犟：宁可绕路也不求人", "细：记得每条船的吃水"],
                "desire": "封河之前凑齐船钱，把妹妹送到对岸",
                "weakness": "听不得别人提父亲，一提就动手",
                "voice": "话短，爱反问：“你坐过船没有？”",
                "arc": "从不肯求人，到当众跪下借船，到替别人撑船",
                "relations": [{"name": "许七", "relation": "许七欠他父亲一条命，怕他知道"}],
            }
        ]
    },
    "plot": {
        "conflict": "沈舟要船，许七不能让他上船",
        "beats": [
            {
                "order": 1,
                "event": "沈舟认出船牌",
                "cause": "许七赶人时露了袖口",
                "result": "他决定夜里去找",
                "characters": ["沈舟", "许七"],
                "tension": 2,
            },
            {
                "order": 2,
                "event": "许七烧船",
                "cause": "他发现船牌被人看过",
                "result": "两人都没有了退路",
                "characters": [],
                "tension": 5,
            },
        ],
        "foreshadowing": [{"clue": "少一道刻痕", "planted": "第一章", "payoff": "第四章"}],
        "risks": ["巡河为何没看见火光：补一句当夜大雾"],
    },
    "review": {
        "score": 72,
        "verdict": "大改",
        "summary": "开头有事，中段空转，结尾没有钩子。",
        "strengths": ["“灯灭之前”一句有画面"],
        "issues": [
            {
                "severity": "严重",
                "kind": "逻辑",
                "quote": "他三日前已在对岸",
                "problem": "封河期间无法渡河",
                "suggestion": "改为封河前一夜",
            }
        ],
    },
}

Becomes = Literal["rule", "turn", "failed"]
"""Put right by a rule; put right by the model, when it is told what is wrong; not put right: the model makes it again."""


@dataclass(frozen=True)
class Case:
    """One way."""

    name: str
    becomes: Becomes
    spoil: Callable[[str, dict[str, Any]], str]
    """(name of the agent, a sample that holds) → what the model writes."""
    told: str = ""
    """What the model is told then, in part."""


def text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def wide(value: dict[str, Any]) -> str:
    """Chinese punctuation around the texts, as an input method writes it."""
    out = []
    inside = False
    for char in json.dumps(value, ensure_ascii=False):
        if char == '"':
            inside = not inside
            out.append("“" if inside else "”")
        else:
            out.append(char if inside else {":": "：", ",": "，", "{": "｛", "}": "｝"}.get(char, char))
    return "".join(out)


FIRST: dict[str, str] = {"outline": "title", "character": "characters", "plot": "conflict", "review": "score"}
"""A field that must be there."""

LISTS: dict[str, str] = {"outline": "chapters", "character": "characters", "plot": "beats", "review": "issues"}


def without_first(agent: str, sample: dict[str, Any]) -> str:
    del sample[FIRST[agent]]
    return text(sample)


def without_inner(agent: str, sample: dict[str, Any]) -> str:
    inner = {"outline": "hook", "character": "voice", "plot": "cause", "review": "problem"}[agent]
    del sample[LISTS[agent]][0][inner]
    return text(sample)


def other_word(agent: str, sample: dict[str, Any]) -> str:
    """A value that is none of those allowed."""
    match agent:
        case "outline":
            sample["chapters"][0]["number"] = 0
        case "character":
            sample["characters"][0]["role"] = "男一号"
        case "plot":
            sample["beats"][0]["tension"] = 9
        case _:
            sample["verdict"] = "还行"
    return text(sample)


def number_in_words(agent: str, sample: dict[str, Any]) -> str:
    match agent:
        case "outline":
            sample["chapters"][0]["number"] = "第一章"
        case "character":
            sample["characters"][0]["personality"] = "犟"
        case "plot":
            sample["beats"][0]["tension"] = "很高"
        case _:
            sample["score"] = "七十二"
    return text(sample)


def number_as_text(agent: str, sample: dict[str, Any]) -> str:
    """Numbers in quotes, and a number where a text belongs. A sheet of a character has no numbers, so it gets one."""
    match agent:
        case "outline":
            sample["chapters"][0]["number"] = "1"
            sample["title"] = 1984
        case "character":
            sample["characters"][0]["name"] = 9527
        case "plot":
            sample["beats"][0]["order"] = "1"
        case _:
            sample["score"] = "72"
    return "```\n" + text(sample) + "\n```"


def empty_text(agent: str, sample: dict[str, Any]) -> str:
    match agent:
        case "outline":
            sample["premise"] = "  "
        case "character":
            sample["characters"][0]["desire"] = ""
        case "plot":
            sample["beats"][1]["event"] = ""
        case _:
            sample["summary"] = ""
    return text(sample)


def inner_quotes(agent: str, sample: dict[str, Any]) -> str:
    """The half-width quotes of a speech, without backslashes."""
    match agent:
        case "outline":
            sample["premise"] = "他说@封河@，没有人信"
        case "character":
            sample["characters"][0]["voice"] = "话短，爱反问：@你坐过船没有？@别人就不作声"
        case "plot":
            sample["conflict"] = "沈舟要@雁回@号，许七不给"
        case _:
            sample["summary"] = "开头一句@灯灭之前@有画面，后面没有。"
    return text(sample).replace("@", '"')


def real_lines(agent: str, sample: dict[str, Any]) -> str:
    """A line break inside a text, unescaped, and a tab."""
    field = {"outline": "premise", "plot": "conflict", "review": "summary"}.get(agent)
    target = sample if field else sample["characters"][0]
    target[field or "arc"] += "@@第二行"
    return text(sample).replace("@@", "\n\t")


def array_of_parts(agent: str, sample: dict[str, Any]) -> str:
    return text(sample[LISTS[agent]] * 2)


CASES = [
    Case("a fence", "rule", lambda a, s: f"```json\n{text(s)}\n```"),
    Case("a few words before and after", "rule", lambda a, s: f"好的，以下是结果：\n\n{text(s)}\n\n希望对您有帮助！"),
    Case("words with a brace before a fence", "rule", lambda a, s: f"按 {{字段}} 填写：\n```json\n{text(s)}\n```\n完。"),
    Case("thought in tags", "rule", lambda a, s: f"<think>先想想 {{结构}}。</think>{text(s)}"),
    Case("commas at the end", "rule", lambda a, s: re.sub(r'(?<=["\]}\d])\n', ",\n", text(s))),
    Case("Chinese punctuation", "rule", lambda a, s: wide(s)),
    Case("single quotes and Python's words", "rule", lambda a, s: repr(s | {"ok": True, "none": None})),
    Case("comments", "rule", lambda a, s: text(s).replace("{\n", "{ // 开始\n", 1).replace("[", "/* 列表 */ [", 1)),
    Case("quotes inside a text", "rule", inner_quotes),
    Case("line breaks inside a text", "rule", real_lines),
    Case("a wrapper", "rule", lambda a, s: text({a: s})),
    Case("numbers as texts in a bare fence", "rule", number_as_text),
    Case("a field is missing", "turn", without_first, "缺少这个字段"),
    Case("a field is missing further in", "turn", without_inner, ".0."),
    Case("a value that is not allowed", "turn", other_word, "不能小于 1|只能是|不能大于 5"),
    Case("an empty text", "turn", empty_text, "不能为空"),
    Case("it breaks off", "turn", lambda a, s: text(s)[: len(text(s)) * 2 // 3], "写到一半就结束了"),
    Case("prose instead", "failed", lambda a, s: "这份稿子整体不错，可以继续写下去。", "没有 JSON 对象"),
    Case("words for numbers", "failed", number_in_words, "应当是整数|应当是数组"),
    Case("only the list of parts", "failed", array_of_parts, "缺少这个字段|应当是 JSON 对象"),
]  # fmt: skip


def answer(agent: str, case: Case) -> str:
    """What the model writes."""
    return case.spoil(agent, copy.deepcopy(SAMPLES[agent]))
