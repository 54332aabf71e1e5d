"""The model that is always there: no network, no weights, no canned answers.

It counts, quotes and compares what it was given, in words or in the JSON that an agent asks for, says so in every answer, and
says it at the pace of a real model. The same prompt gets the same answer, delta for delta, so a worker that takes over a call
goes on where the first one stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import cycle, islice

from qingyu_ai.bus.deadline import Deadline
from services.llm.graphemes import graphemes
from services.llm.model import LENGTH, NEVER, STOP, TOOL_CALLS, Delta, Finish, Prompt, Turn, Usage
from services.llm.tokens import count_that_fits, estimate_tokens

from .chinese import write_chinese
from .english import write_english
from .reading import read
from .shaped.wanted import write, writer_for
from .tools import Choice, choose, results_in, without_marks

LONG_PROMPT = 16 * 1024
"""Characters, so at most 64 KiB of text. A longer prompt is read in a thread.

Reading takes about a microsecond a character: a chapter holds the event loop for 3 ms, but a megabyte would hold it for half a
second, and every other stream of the worker with it. Python's threads take turns every 5 ms, so the loop goes on meanwhile.
"""

NAME = "offline"

_YIELD_EVERY = 32
"""Deltas between two turns of the event loop, when no pace is set. Each turn costs as much as several deltas."""


class OfflineModel:
    """Answers a prompt with what can be counted in it. Implements `Model`."""

    def __init__(
        self,
        first_delay_seconds: float,
        deltas_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set the pace.

        Args:
            first_delay_seconds: from the start of a stream to its first delta.
            deltas_per_second: from then on; 0: as fast as they are read.
            clock: seconds that never go back.
            sleep: waits that many seconds, or for one turn of the loop when it is 0.
        """
        self._first_delay_seconds = first_delay_seconds
        self._deltas_per_second = deltas_per_second
        self._clock = clock
        self._sleep = sleep

    @property
    def name(self) -> str:
        """Always `offline`, so that nobody takes its answers for a real model's."""
        return NAME

    def __repr__(self) -> str:
        return f"OfflineModel({self._first_delay_seconds:g} s, then {self._deltas_per_second:g} deltas/s)"

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        """Answer a prompt. `temperature` changes nothing: there is nothing to choose.

        Closing the generator ends the answer at once. Only a long prompt that is just being read is read to its end, because
        a thread cannot be stopped; the result is dropped.
        """
        start = self._clock()
        is_long = sum(len(turn.content) for turn in prompt.turns) > LONG_PROMPT
        answer = await asyncio.to_thread(_answer, prompt) if is_long else _answer(prompt)
        for n, delta in enumerate(answer.deltas):
            await self._wait_for(n, start)
            yield delta
        yield answer.last

    async def _wait_for(self, n: int, start: float) -> None:
        """Wait until the n-th delta is due. The schedule is fixed at the start, so late deltas do not delay later ones."""
        due = start + self._first_delay_seconds
        if self._deltas_per_second:
            due += n / self._deltas_per_second
        elif n % _YIELD_EVERY:
            return
        await self._sleep(max(0.0, due - self._clock()))


_MORE = (0, 0, 1, 1, 1, 2, 2, 3)
"""How many characters a Chinese piece has besides its first: two and a quarter in all, on average."""


@dataclass(frozen=True, slots=True)
class _Answer:
    deltas: list[Delta]
    last: Delta


def _answer(prompt: Prompt) -> _Answer:
    if (choice := choose(prompt)).calls:
        return _calling(prompt, choice)
    deltas = [Delta(piece) for piece in _pieces(_text(prompt))]
    finish: Finish = STOP
    if prompt.max_tokens > 0:
        fitting = count_that_fits((delta.text for delta in deltas), prompt.max_tokens)
        if fitting < len(deltas):
            deltas, finish = deltas[:fitting], LENGTH
    said = estimate_tokens("".join(delta.text for delta in deltas))
    return _Answer(deltas, Delta(finish=finish, usage=Usage(_asked(prompt), said, estimated=True), model=NAME))


def _calling(prompt: Prompt, choice: Choice) -> _Answer:
    thought = estimate_tokens(choice.thought)
    called = sum(estimate_tokens(call.name + call.arguments) for call in choice.calls)
    usage = Usage(_asked(prompt), thought + called, estimated=True, reasoning_tokens=thought)
    deltas = [Delta(reasoning=piece) for piece in _pieces(choice.thought)]
    deltas += [Delta(tool_calls=(call,)) for call in choice.calls]
    return _Answer(deltas, Delta(finish=TOOL_CALLS, usage=usage, model=NAME))


def _asked(prompt: Prompt) -> int:
    return sum(estimate_tokens(turn.content) for turn in prompt.turns)


def _text(prompt: Prompt) -> str:
    """Write the answer, or the rest of it where the last turn is its beginning."""
    turns = prompt.turns
    if turns and turns[-1].role == "assistant":
        begun = turns[-1].content
        whole = _written(turns[:-1], prompt.max_tokens)
        if whole.startswith(begun):
            return whole[len(begun) :]
    return _written(turns, prompt.max_tokens)


def _written(turns: tuple[Turn, ...], max_tokens: int) -> str:
    if writer := writer_for(turns):
        return write(writer, turns, max_tokens)
    reading = read(without_marks(turns))
    said = write_chinese(reading) if reading.language == "zh" else write_english(reading)
    results = results_in(turns, reading.language)
    return f"{said}\n\n{results}" if results else said


def _pieces(text: str) -> Iterator[str]:
    """Cut an answer into pieces of one to four characters, three or four in Latin script, as tokenizers roughly do.

    The sizes look irregular, but follow from the text alone.
    """
    characters = graphemes(text)
    for byte in cycle(blake2b(text.encode("utf-8", "surrogatepass")).digest()):
        first = next(characters, "")
        if not first:
            return
        more = 2 + byte % 2 if first.isascii() else _MORE[byte % len(_MORE)]
        yield first + "".join(islice(characters, more))
