"""The offline model's Chinese: a reading, put into words."""

from __future__ import annotations

import re

from services.text.names import Name

from .quoting import quote_chinese, tidy
from .reading import Message, Reading, Sentence

LABEL = "【离线演示】"
"""The first words of every Chinese answer."""

_OPENING = "这里没有接入大语言模型，下面的话都是按固定规则从您的输入里数出来的。"

_TASK = re.compile(
    "续写|改写|扩写|缩写|仿写|润色|校对|点评|评价|总结|概括|翻译|起名|取名|大纲|提纲|分析|推荐|构思|创作|写(?:[一个几两]?[个篇段首封章句]|出)"
)
"""What people ask a model for."""

_TASK_REACH = 200
"""Characters at either end of a message where a task is looked for. In the middle of a story it would be somebody else's."""

_ENDINGS = {
    "？": "是问句",
    "?": "是问句",
    "！": "是感叹句",
    "!": "是感叹句",
    "…": "用省略号收尾",
    "—": "用破折号收尾",
    "。": "用句号收尾",
    ".": "用句点收尾",
}
_CLOSERS = "”’」』）)\"'"

_NAMES_SHOWN = 4

_NOT_HAN = re.compile("[\u3041-\u30ff\u3100-\u31ff\ua960-\ua97c\uac00-\ud7fb\uff66-\uffdc]")


def write_chinese(reading: Reading) -> str:
    """Write the answer to what was read."""
    parts = [LABEL + _OPENING]
    if reading.message is None:
        parts.append(_without_question(reading))
    else:
        parts.append(f"这是您在这段对话里的第{reading.number}条消息，{_size(reading.message)}")
        parts.append(_findings(reading.message) + _task(reading.message))
    parts.append(
        _comparison(reading) + _system(reading) + f"输入校验码是{reading.checksum}，同样的输入总会得到同样的回答。"
    )
    return "\n\n".join(part for part in parts if part)


def _without_question(reading: Reading) -> str:
    if not reading.turns:
        return "这次请求里一条消息也没有。"
    return f"这次请求里有{reading.turns}条消息，但没有用户的消息，也就没有可以回应的内容。"


def _size(message: Message) -> str:
    counts, only = message.counts, message.longest
    if only is None:
        return _wordless(message)
    if message.sentences == 1:
        said = f"只有一句，共{counts.zi}字（{_kinds(message)}），{_pauses(only)}，{_ending(only)}：{quote_chinese(only.text)}"
    else:
        lines = f"{message.paragraphs}段、" if message.paragraphs > 1 else ""
        average = _rounded(counts.zi, message.sentences)
        said = f"共{counts.zi}字（{_kinds(message)}），分成{lines}{message.sentences}句，平均每句{average}字。"
    apart = [f"{n}个{what}" for n, what in ((counts.symbols, "半角标点或符号"), (counts.emoji, "表情符号")) if n]
    return said + (f"另有{_listed(apart)}，不计入字数。" if apart else "")


def _wordless(message: Message) -> str:
    counts = message.counts
    seen = ((counts.marks, "全角标点"), (counts.symbols, "半角标点或符号"), (counts.emoji, "表情符号"))
    present = [f"{n}个{what}" for n, what in seen if n]
    if present:
        return f"里面没有文字，只有{_listed(present)}：{quote_chinese(message.text, 20)}"
    if message.text:
        return f"里面没有看得见的文字，只有{len(message.text)}个空白或不可见的字符。"
    return "内容是空的，没有什么可数。"


def _kinds(message: Message) -> str:
    counts = message.counts
    characters = "中日韩文字" if _NOT_HAN.search(message.text) else "汉字"
    kinds = ((counts.cjk, characters), (counts.marks, "全角标点"), (counts.words, "英文单词或数字"))
    present = [(n, what) for n, what in kinds if n]
    return f"全是{present[0][1]}" if len(present) == 1 else "、".join(f"{what}{n}个" for n, what in present)


def _findings(message: Message) -> str:
    said = ""
    if message.speech.passages:
        said += f"引号里的文字有{message.speech.passages}处，{_share(message.speech_share)}。"
    if message.names:
        said += f"按姓氏和前后文辨认，其中的人名有{_names(message.names)}。"
    if message.phrase:
        said += f"“{tidy(message.phrase.text, 20, '……')}”重复出现了{message.phrase.count}次。"
    longest, last = message.longest, message.last
    if longest is None or last is None or message.sentences == 1:
        return said
    said += f"最长的一句有{longest.size}字，{_pauses(longest)}：{quote_chinese(longest.text)}"
    if last == longest:
        return said + f"它也是最后一句，{_ending(last)}。"
    return said + f"最后一句{_ending(last)}：{quote_chinese(last.text)}"


def _pauses(sentence: Sentence) -> str:
    return f"中间停顿{sentence.pauses}次" if sentence.pauses else "中间没有停顿"


def _ending(sentence: Sentence) -> str:
    ending = _ENDINGS.get(sentence.text.rstrip(_CLOSERS)[-1:], "句末没有标点")
    return f"收在引号里，{ending}" if sentence.text.endswith(("”", "」", "』", '"')) else ending


def _task(message: Message) -> str:
    task = _TASK.search(message.text[:_TASK_REACH]) or _TASK.search(message.text[-_TASK_REACH:])
    return f"消息里提到的“{task[0]}”，要接入真正的模型才能做到；离线演示只描述文字，不会创作。" if task else ""


def _comparison(reading: Reading) -> str:
    message, earlier = reading.message, reading.earlier
    if message is None or earlier is None:
        return ""
    if message.text == earlier.text:
        return "这条消息和您上一条一字不差。"
    if message.language != earlier.language:
        return "您上一条消息里没有中文，这一条换成了中文。"
    more = message.size - earlier.size
    size = f"多了{more}字" if more > 0 else f"少了{-more}字" if more < 0 else "字数相同"
    shared = [name.text for name in earlier.names if name.text in message.text]
    new = [name.text for name in message.names if name.text not in earlier.text]
    both = f"，两条都提到{_listed(shared[:_NAMES_SHOWN])}" if shared else ""
    fresh = f"，新出现的人名有{_listed(new[:_NAMES_SHOWN])}" if new else ""
    return f"和您上一条消息相比，这一条{size}{both}{fresh}。"


def _system(reading: Reading) -> str:
    if reading.system is not None:
        return f"这次请求带有系统提示，共{reading.system.zi}字，这里不引用。"
    return "这次请求没有系统提示。" if reading.turns else ""


def _names(names: tuple[Name, ...]) -> str:
    shown = [f"{name.text}（{name.count}次）" for name in names[:_NAMES_SHOWN]]
    return "、".join(shown) + "等" if len(names) > _NAMES_SHOWN else _listed(shown)


def _share(share: float) -> str:
    if share < 0.01:
        return "占全文不到1%"
    if share > 0.99:
        return "几乎占了全文" if share < 1 else "占了全文"
    return f"约占全文的{share * 100:.0f}%"


def _rounded(total: int, parts: int) -> str:
    return f"{total // parts}" if total % parts == 0 else f"约{max(1, round(total / parts))}"


def _listed(items: list[str]) -> str:
    """Join: 甲、乙和丙."""
    return items[0] if len(items) == 1 else "、".join(items[:-1]) + "和" + items[-1]
