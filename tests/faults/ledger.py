"""The ledger of a call: what its client received against what the model wrote. Pure: it knows no system and no process.

The rule: a text is a row of parts. Each part is what one request of the model's wrote, from its first token on, without one
left out; the request that wrote a part was given exactly the text before it. Everything else is a fault of the system.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from .tokens import read


@dataclass(slots=True)
class Attempt:
    """One request that the model was asked, and what it wrote. Times are of `time.monotonic()`, alike in all processes."""

    call: str
    request: int
    """Counts from 1 in each call."""
    given: str
    """The text that it was to go on with."""
    first: int
    """The place of its first new token."""
    asked_at: float
    repeated: int = 0
    """Tokens of the text given that it said again, word for word, before its first new one."""
    wrote: int = 0
    """New tokens."""
    first_at: float = 0.0
    """When it wrote for the first time; 0: never."""
    ended: Literal["", "complete", "closed", "broken"] = ""
    """`complete`: it said that it ended. `closed`: the one who asked has closed the connection. `broken`: it failed, as it was
    told to. Empty: it goes on."""
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """What a client has received of a call, over all its readings."""

    call: str
    text: str
    finals: int = 0
    """Final chunks of the last reading: who reads on from the end is told again that it is the end."""
    final_last: bool = False
    """Whether nothing came after the final chunk."""
    ok: bool = True
    """Whether the call ended with OK; what ended otherwise may be short, and not wrong."""
    cut: bool = False
    """Whether it was its caller, its deadline or a lost connection that ended it, perhaps between the final chunk and the OK."""


def wrongs(received: Received, attempts: Iterable[Attempt], tokens: int) -> list[str]:
    """Say what is wrong with a call, in one sentence each.

    Args:
        received: by its client.
        attempts: all requests that the model was asked for this call.
        tokens: how many were asked for.
    """
    by_request = {attempt.request: attempt for attempt in attempts if attempt.call == received.call}
    said, rest = read(received.text)
    found: list[str] = []
    if rest:
        found.append(f"is no token: {rest[:40]!r} after {len(said)} tokens")
    if strangers := {token.call for token in said} - {received.call}:
        found.append(f"is of another call: {sorted(strangers)}")
    at = 0
    text = ""
    last: Attempt | None = None
    for request, part in groupby(said, key=lambda token: token.request):
        part_tokens = list(part)
        begins = at
        for token in part_tokens:
            if token.place != at:
                found.append(f"{'gap' if token.place > at else 'repeat'}: {token} stands where {at} belongs")
                at = token.place
            at += 1
        last = by_request.get(request)
        if last is None:
            found.append(f"was written by nobody: request {request} at {begins}")
        else:
            found += _part_wrongs(last, begins, at, text)
        text += "".join(map(str, part_tokens))
    if any(a.ended == "complete" and a.given == received.text and not a.wrote for a in by_request.values()):
        last = None  # another one was asked for what is missing, and said that nothing is
    found += _end_wrongs(received, last, len(said), tokens)
    return [f"{received.call}: {one}" for one in found]


def _part_wrongs(attempt: Attempt, begins: int, ends: int, before: str) -> list[str]:
    found = []
    if attempt.first != begins:
        found.append(f"middle of a request: {attempt.request} began at {attempt.first}, its part here at {begins}")
    elif attempt.given != before:
        found.append(f"other text before: request {attempt.request} was not given what stands before {begins}")
    if ends > attempt.first + attempt.wrote:
        found.append(f"was not written: request {attempt.request} ended before {ends}")
    return found


def _end_wrongs(received: Received, last: Attempt | None, said: int, tokens: int) -> list[str]:
    if not received.ok:
        if not received.finals:
            return []
        if not received.cut:
            return [f"final chunk in a call that failed: {received.finals}"]
    found = []
    if received.finals != 1 or not received.final_last:
        found.append(f"final chunks: {received.finals}, the last chunk {'is' if received.final_last else 'is none'}")
    if said != tokens:
        found.append(f"short: {said} tokens of {tokens}" if said < tokens else f"long: {said} tokens of {tokens}")
    if last is not None and last.ended != "complete":
        found.append(f"the end of request {last.request}, which stands last, was {last.ended or 'never seen'}")
    return found


def generated(attempts: Iterable[Attempt]) -> int:
    """New tokens that the model wrote."""
    return sum(attempt.wrote for attempt in attempts)


def delivered(received: Iterable[Received]) -> int:
    """Tokens that clients have."""
    return sum(len(read(one.text)[0]) for one in received)


def overspent(attempts: Sequence[Attempt], received: Sequence[Received], interruptions: int, window: int) -> list[str]:
    """Whether more was generated than was delivered, by more than a window for each interruption of a call."""
    wrote, has = generated(attempts), delivered(received)
    limit = has + interruptions * window
    return [f"overspent: {wrote} tokens generated, {has} delivered, {limit} allowed"] if wrote > limit else []
