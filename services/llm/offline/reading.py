"""What the offline model takes from a prompt before it writes a word: each number and each name in an answer is one of these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s

from services.llm.model import Turn
from services.text.counting import Counts, Speech, count, count_paragraphs, sentences, speech
from services.text.names import Name, find_names
from services.text.script import Language, language

from .phrases import Phrase, repeated_phrase

_PAUSE = re.compile(r"[，、；：](?=.)|[,;:](?=[^0-9A-Za-z/])", re.DOTALL)
"""Not the colon that ends a heading, and neither 10,000 nor 12:30."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a message, and its measures."""

    text: str
    size: int
    """字数, or words in an English message."""
    pauses: int
    """Commas, semicolons and colons."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was found in one message."""

    text: str
    language: Language
    """As which language it was read; a message without letters is read as the conversation's."""
    counts: Counts
    paragraphs: int
    sentences: int
    longest: Sentence | None
    """The first one of several. None when there is no sentence, as with `last`."""
    last: Sentence | None
    speech: Speech
    names: tuple[Name, ...]
    phrase: Phrase | None

    @property
    def size(self) -> int:
        """字数, or words in an English message."""
        return _size(self.counts, self.language)

    @property
    def speech_share(self) -> float:
        """Which part of the message is quoted, from 0 to 1."""
        return _size(self.speech.counts, self.language) / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a prompt."""

    language: Language
    """What to answer in."""
    turns: int
    """Of all roles."""
    number: int
    """Which of the user's messages the last one is, counted from 1; 0: there is none."""
    message: Message | None
    earlier: Message | None
    """The user message before it."""
    system: Counts | None
    """None without a system prompt."""
    checksum: str
    """Eight hex digits over all turns: the same for the same prompt, and for no other one that is likely to come along."""


def read(turns: Sequence[Turn]) -> Reading:
    """Read a conversation. Time and memory are linear in its length: a megabyte takes about half a second."""
    asked = [turn.content for turn in turns if turn.role == "user"]
    system = "\n".join(turn.content for turn in turns if turn.role == "system")
    # An emoji alone has no language: it is answered in that of the talk so far, or else of the platform.
    chosen: Language = next((found for text in [*reversed(asked), system] if (found := language(text))), "zh")
    return Reading(
        language=chosen,
        turns=len(turns),
        number=len(asked),
        message=_read_message(asked[-1], chosen) if asked else None,
        earlier=_read_message(asked[-2], chosen) if len(asked) > 1 else None,
        system=count(system) if any(turn.role == "system" for turn in turns) else None,
        checksum=_checksum(turns),
    )


def _read_message(text: str, otherwise: Language) -> Message:
    spoken = language(text) or otherwise
    pieces = sentences(text)
    longest = last = None
    if pieces:
        longest = _measured(_longest(pieces, spoken), spoken)
        last = longest if pieces[-1] == longest.text else _measured(pieces[-1], spoken)
    names = tuple(find_names(text, spoken))
    return Message(
        text=text,
        language=spoken,
        counts=count(text),
        paragraphs=count_paragraphs(text),
        sentences=len(pieces),
        longest=longest,
        last=last,
        speech=speech(text),
        names=names,
        phrase=repeated_phrase(text, spoken, tuple(name.text for name in names)),
    )


def _longest(pieces: list[str], spoken: Language) -> str:
    """Find the first of the longest sentences."""
    longest, most = pieces[0], 0
    for piece in pieces:
        # No sentence has more 字 than characters, or more words than every other character: most need not be counted.
        bound = len(piece) if spoken == "zh" else (len(piece) + 1) // 2
        if bound > most and (size := _size(count(piece), spoken)) > most:
            longest, most = piece, size
    return longest


def _measured(piece: str, spoken: Language) -> Sentence:
    return Sentence(piece, _size(count(piece), spoken), sum(1 for _ in _PAUSE.finditer(piece)))


def _size(counts: Counts, spoken: Language) -> int:
    return counts.zi if spoken == "zh" else counts.words


def _checksum(turns: Sequence[Turn]) -> str:
    digest = blake2s(digest_size=4)
    for turn in turns:
        content = turn.content.encode("utf-8", "surrogatepass")
        # The length keeps two short messages apart from one that holds both.
        digest.update(f"{turn.role} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()
