"""The fold: how a sequence of frames becomes a text. One pure function, used by readers, resumers and take-over alike.

A reader stands at (epoch, next). The rules, in the order in which they are asked (docs/bus-protocol.md, "Fold"):

- a frame of a lower epoch is ignored: its worker was replaced;
- a fence of a higher epoch is taken: from here on, only that epoch speaks;
- what an epoch says first must have a `base`, and it must be where the reader stands: otherwise something is lost;
- data at `next` is shown, lower is a repeat, higher is a hole;
- an end whose count is `next`, or whose status is not OK, ends the call; unless the call was reopened after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from qingyu_ai.contract import bus_pb2


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader stands."""

    epoch: int = 0
    """0 before the first frame."""
    next: int = 0
    """The number of the next chunk to show: how many deltas it has shown."""
    reopened: int = 0
    """The revision of the decision that was reopened last: a failure said up to it is none any more."""
    awaits_base: bool = False
    """The epoch was heard of by a fence or a beat: where it goes on is still to be said."""


class Verdict(Enum):
    """What a reader does with a frame."""

    SHOW = auto()
    """Its chunks go on exactly where the reader stands."""
    HEAR = auto()
    """Nothing to show, but the worker is alive: a beat, a fence, a repeat of the current epoch."""
    IGNORE = auto()
    """From a replaced worker. It proves nothing about the current one."""
    HOLE = auto()
    """Frames between the reader and this one are missing. The position is unchanged; reading the log again may mend it."""
    END = auto()
    """The call said that it ended."""
    LOST = auto()
    """The log and the reader disagree for good: DATA_LOSS."""


def fold(at: Position, frame: bus_pb2.Frame) -> tuple[Position, Verdict]:
    """Take one frame: where the reader stands afterwards, and what it does with the frame."""
    epoch = frame.epoch
    if epoch < at.epoch:
        return at, Verdict.IGNORE
    said = frame.WhichOneof("said")
    if said == "end" and frame.end.status:
        if epoch <= at.reopened:
            return at, Verdict.IGNORE
        # It already says that the text is not whole, so it ends the call wherever the reader stands.
        return Position(epoch, at.next, at.reopened), Verdict.END
    # A repeat of an epoch's first frame carries `base` again; for a reader already in that epoch it is a mere repeat.
    if (epoch > at.epoch or at.awaits_base) and said in ("data", "end"):
        if not frame.HasField("base") or frame.base > at.next:
            return at, Verdict.HOLE
        if frame.base < at.next:
            return at, Verdict.LOST
    if said == "data":
        return _data(at, frame)
    if said == "end":
        if frame.end.count == at.next:
            return Position(epoch, at.next, at.reopened), Verdict.END
        return at, Verdict.HOLE if frame.end.count > at.next else Verdict.LOST
    return Position(epoch, at.next, at.reopened, at.awaits_base or epoch > at.epoch), Verdict.HEAR


def _data(at: Position, frame: bus_pb2.Frame) -> tuple[Position, Verdict]:
    after = frame.seq + length(frame.data)
    if frame.seq == at.next:
        return Position(frame.epoch, after, at.reopened), Verdict.SHOW
    if frame.seq > at.next:
        return at, Verdict.HOLE
    # A frame is sent again with the same numbers, so a repeat never reaches beyond what was shown.
    return (at, Verdict.HEAR) if after <= at.next else (at, Verdict.LOST)


def length(data: bus_pb2.Data) -> int:
    """How many deltas a data frame covers."""
    return sum(data.span) if data.span else len(data.chunk)
