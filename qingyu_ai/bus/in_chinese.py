"""What is wrong with a field, in Chinese. The English phrases are those of the rules; tests hold that none is forgotten."""

from __future__ import annotations

import re

PHRASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(english), chinese)
    for english, chinese in (
        (r"is required", "必填"),
        (r"must be between (\S+) and (\S+)", r"须在 \1 到 \2 之间"),
        (r"must be one of (.+)", r"须为以下之一：\1"),
        (r"must be system, user or assistant", "须为 system、user 或 assistant"),
        (r"must hold a message of the user", "至少须有一条用户消息"),
        (r"must be (\d+) to (\d+) visible ASCII characters", r"须为 \1 到 \2 个可见 ASCII 字符"),
        (r"must be a whole number from 0 to (\d+)", r"须为 0 到 \1 的整数"),
        (r"must be a whole number of milliseconds, at most (\d+)", r"须为整数毫秒，至多 \1"),
        (r"has (\d+) characters; the limit is (\d+)", r"长度为 \1 字符，上限 \2"),
        (r"has (\d+) bytes; the limit is (\d+)", r"大小为 \1 字节，上限 \2"),
        (r"has (\d+) pieces; the limit is (\d+)", r"被分成 \1 段，上限 \2"),
        (r"has the character U\+0000 at (\d+), which cannot be stored", r"第 \1 个字符处有 U+0000，无法存储"),
        (r"has half a character \(a lone surrogate\) at (\d+)", r"第 \1 个字符处有不成对的代理码位"),
        (r"has an entry without a name", "有一项没有名称"),
        (r"has a name of (\d+) characters; the limit is (\d+)", r"有一项的名称长 \1 字符，上限 \2"),
        (r"has (\d+) entries; the limit is (\d+)", r"有 \1 项，上限 \2"),
        (r"has control characters, or blanks at an end", "含控制字符，或首尾有空白"),
        (
            r"is no tool name: lower-case letters, digits and _, at most 64",
            "不是工具名：须为小写字母、数字和下划线，至多 64 个",
        ),
        (r"is for streams", "仅用于流式调用"),
        (r"needs the call's (\S+)", r"须同时给出该调用的 \1"),
        (r"no chunk of this stream ends at (\d+)", r"该流没有在 \1 处结束的数据块"),
        (r"is no (\S+) \(broken encoding or invalid UTF-8\)", r"不是 \1（编码损坏或 UTF-8 无效）"),
        (r"is no (\S+)", r"不是 \1"),
        (r"the agent (\S+) writes text only; leave it out", r"智能体 \1 只写文本，请去掉该项"),
        (r"no row of this worker: (\S+)", r"该服务没有这一项：\1"),
        (r"call id or inbox malformed", "调用编号或收件地址格式有误"),
        (r"missing", "缺失"),
        (r"malformed", "格式有误"),
        (r"malformed or missing: (.+)", r"格式有误或缺失：\1"),
        (r"differs from (\S+) in the call's metadata", r"与该调用元数据中的 \1 不同"),
        (r"differs from the path", "与路径不一致"),
        (r"differs from (\S+)", r"与 \1 不同"),
        (r"must be a text with JSON in it", "须为 JSON 文本"),
        (r"is no percent-encoded UTF-8", "不是百分号编码的 UTF-8"),
    )
)
"""English, and what it is in Chinese. A phrase that is not here is shown as it is."""


def in_chinese(phrase: str) -> str:
    """Translate what is wrong with a field."""
    for english, chinese in PHRASES:
        if found := english.fullmatch(phrase):
            return found.expand(chinese)
    return phrase
