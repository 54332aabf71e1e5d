"""The offline model's English: a reading, put into words."""

from __future__ import annotations

import re

from services.text.names import Name

from .quoting import quote_english, tidy
from .reading import Message, Reading, Sentence

LABEL = "[Offline demonstration]"
"""The first words of every English answer."""

_OPENING = "No language model is connected; all of this was counted in your input by fixed rules."

_TASK = re.compile(
    r"\b(?:write|continue|rewrite|expand|shorten|summari[sz]e|translate|polish|edit|proofread|review|outline|draft|describe|"
    r"explain|suggest)\b",
    re.IGNORECASE,
)
"""What people ask a model for."""

_TASK_REACH = 400
"""Characters at either end of a message where a task is looked for. In the middle of a story it would be somebody else's."""

_ENDINGS = {
    "?": "is a question",
    "!": "is an exclamation",
    "…": "trails off",
    "—": "breaks off at a dash",
    ".": "ends in a full stop",
}
_CLOSERS = "”’\"')]"

_NAMES_SHOWN = 4

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def write_english(reading: Reading) -> str:
    """Write the answer to what was read."""
    parts = [f"{LABEL} {_OPENING}"]
    if reading.message is None:
        parts.append(_without_question(reading))
    else:
        parts.append(f"This is your {_ordinal(reading.number)} message in this conversation. {_size(reading.message)}")
        parts.append(_joined(*_findings(reading.message), _task(reading.message)))
    checksum = f"Input checksum {reading.checksum}: the same input always gets this answer."
    parts.append(_joined(_comparison(reading), _system(reading), checksum))
    return "\n\n".join(part for part in parts if part)


def _without_question(reading: Reading) -> str:
    if not reading.turns:
        return "The request holds no messages at all."
    return f"The request holds {_many(reading.turns, 'message')} but nothing from a user, so there is nothing to respond to."


def _size(message: Message) -> str:
    counts, only = message.counts, message.longest
    if only is None:
        return _wordless(message)
    words = _many(counts.words, "word")
    emoji = f" and {_many(counts.emoji, 'emoji', 'emoji')}" if counts.emoji else ""
    if message.sentences == 1:
        said = f"It is a single sentence of {words}{emoji} with {_pauses(only)}, and it {_ending(only)}"
        return f"{said}: {quote_english(only.text)}"
    average = _rounded(counts.words, message.sentences)
    paragraphs = f", in {_many(message.paragraphs, 'paragraph')}" if message.paragraphs > 1 else ""
    return f"It has {words}{emoji} in {_many(message.sentences, 'sentence')}, {average} a sentence{paragraphs}."


def _wordless(message: Message) -> str:
    marks, emoji = message.counts.marks + message.counts.symbols, message.counts.emoji
    seen = [_many(n, one, more) for n, one, more in ((marks, "mark", "marks"), (emoji, "emoji", "emoji")) if n]
    if seen:
        return f"There are no words in it, only {_listed(seen)}: {tidy(message.text, 20, '…')}"
    if message.text:
        return f"There is nothing visible in it, only {_many(len(message.text), 'blank or invisible character')}."
    return "It is empty, so there is nothing to count."


def _findings(message: Message) -> list[str]:
    said: list[str] = []
    if message.speech.passages:
        said.append(
            f"Quoted text makes up {_share(message.speech_share)}, in {_many(message.speech.passages, 'passage')}."
        )
    if message.names:
        said.append(f"Going by capital letters, it names {_names(message.names)}.")
    if message.phrase:
        said.append(f"The phrase “{tidy(message.phrase.text, 60, '…')}” occurs {_times(message.phrase.count)}.")
    longest, last = message.longest, message.last
    if longest is None or last is None or message.sentences == 1:
        return said
    said.append(
        f"The longest sentence has {_many(longest.size, 'word')} and {_pauses(longest)}: {quote_english(longest.text)}"
    )
    if last == longest:
        said.append(f"It is also the last one, and it {_ending(last)}.")
    else:
        said.append(f"The last one {_ending(last)}: {quote_english(last.text)}")
    return said


def _pauses(sentence: Sentence) -> str:
    return _many(sentence.pauses, "pause") if sentence.pauses else "no pause"


def _ending(sentence: Sentence) -> str:
    bare = sentence.text.rstrip(_CLOSERS)
    return _ENDINGS["…"] if bare.endswith("...") else _ENDINGS.get(bare[-1:], "has no mark at its end")


def _task(message: Message) -> str:
    task = _TASK.search(message.text[:_TASK_REACH]) or _TASK.search(message.text[-_TASK_REACH:])
    if task is None:
        return ""
    return f"It says “{task[0]}”, which takes a real model: this demonstration describes texts and composes none."


def _comparison(reading: Reading) -> str:
    message, earlier = reading.message, reading.earlier
    if message is None or earlier is None:
        return ""
    if message.text == earlier.text:
        return "It is the same as your previous message, letter for letter."
    if message.language != earlier.language:
        return "Your previous message was in an East Asian script; this one is not."
    more = message.size - earlier.size
    size = f"{_many(abs(more), 'word')} {'longer' if more > 0 else 'shorter'} than" if more else "exactly as long as"
    shared = [name.text for name in earlier.names if _is_named(name, message.text)]
    new = [name.text for name in message.names if not _is_named(name, earlier.text)]
    both = f"; both mention {_listed(shared[:_NAMES_SHOWN])}" if shared else ""
    fresh = f"; {_listed(new[:_NAMES_SHOWN])} {'is' if len(new) == 1 else 'are'} new" if new else ""
    return f"It is {size} your previous message{both}{fresh}."


def _is_named(name: Name, text: str) -> bool:
    return re.search(rf"\b{re.escape(name.text)}\b", text) is not None


def _system(reading: Reading) -> str:
    counts = reading.system
    if counts is None:
        return "There is no system prompt." if reading.turns else ""
    size = _many(counts.zi, "character") if counts.cjk else _many(counts.words, "word")
    return f"A system prompt of {size} came with it; it is not quoted here."


def _names(names: tuple[Name, ...]) -> str:
    shown = [f"{name.text} ({_times(name.count)})" for name in names[:_NAMES_SHOWN]]
    return _listed([*shown, "others"] if len(names) > _NAMES_SHOWN else shown)


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n:,} times")


def _share(share: float) -> str:
    if share < 0.01:
        return "less than 1% of the words"
    if share > 0.99:
        return "nearly all of the words" if share < 1 else "all of the words"
    return f"{share * 100:.0f}% of the words"


def _rounded(total: int, parts: int) -> str:
    return f"{total // parts}" if total % parts == 0 else f"about {max(1, round(total / parts))}"


def _ordinal(n: int) -> str:
    if n <= len(_ORDINALS):
        return _ORDINALS[n - 1]
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n:,} {one if n == 1 else more or one + 's'}"


def _listed(items: list[str]) -> str:
    """Join: a, b and c."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
