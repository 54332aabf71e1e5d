"""The trace context that callers send (W3C Trace Context, https://www.w3.org/TR/trace-context/). What does not hold is as if it
had not been sent: a trace is no reason to refuse a call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

LONGEST_STATE = 512
"""Characters that everybody has to pass on (section 3.3.1.5); a longer one is left out as a whole."""

MOST_MEMBERS = 32

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_MEMBER = re.compile(r"(?:[a-z0-9][a-z0-9_\-*/]{0,255}(?:@[a-z][a-z0-9_\-*/]{0,13})?)=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_SAMPLED = 1


class Context(NamedTuple):
    """In whose trace something is done."""

    parent: str = ""
    """traceparent; empty: in nobody's."""
    state: str = ""
    """tracestate: what others keep there, passed on as it came."""


NOWHERE = Context()


def parent_of(given: str) -> str:
    """Read a traceparent.

    Returns:
        It in version 00, the one that we speak: of a later version is known what 00 has, and no flag but `sampled`. Empty: it
        is none.
    """
    found = _PARENT.fullmatch(given)
    if found is None:
        return ""
    version, trace, span, flags, more = found.groups()
    if version == "00":
        return "" if more else given
    return f"00-{trace}-{span}-{int(flags, 16) & _SAMPLED:02x}"


def state_of(given: Sequence[str]) -> str:
    """Read tracestate, which may come in several headers. Empty: there is none, or one that nobody has to pass on."""
    members = [member.strip(" \t") for one in given for member in one.split(",")]
    members = [member for member in members if member]
    names = {member.partition("=")[0] for member in members}
    joined = ",".join(members)
    if len(joined) > LONGEST_STATE or len(members) > MOST_MEMBERS or len(names) < len(members):
        return ""
    return joined if all(map(_MEMBER.fullmatch, members)) else ""


def context_of(parents: Sequence[str], states: Sequence[str] = ()) -> Context:
    """Read the headers of a call. Two traceparents are none."""
    parent = parent_of(parents[0]) if len(parents) == 1 else ""
    return Context(parent, state_of(states)) if parent else NOWHERE
