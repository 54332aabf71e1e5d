"""What a worker that takes a call over finds in its log. Fence first, then fold: the other order fails (docs/model.md)."""

from __future__ import annotations

from qingyu_ai.contract import bus_pb2

from . import topology
from .fold import Position, Verdict, fold
from .transport import Bus
from .transport_errors import TransportError

FULL = 0.8
"""Of the log's room. Once it has dropped something it stays fuller than this, until what is in it is too old anyway."""

CLOCKS_SECONDS = 5.0
"""What clocks may differ by."""


async def said_before(
    bus: Bus, inbox: str, fence: int, reopened: int, timeout: float
) -> tuple[Position, list[bytes], bool]:
    """Fold a call's log, as every reader does, up to a fence or to a hole.

    Args:
        inbox: the subject of the log.
        fence: its place in the log: what lower epochs store after it is not part of the call.
        reopened: the revision of the call's decision that was reopened last.
        timeout: seconds for each read.

    Returns:
        Where the text stands, its chunks, and whether it was read to the fence: otherwise something is missing behind it.

    Raises:
        TransportError: the log cannot be read.
    """
    at, sequence = Position(reopened=reopened), 1
    said: list[bytes] = []
    whole = True
    while sequence < fence:
        stored = await bus.next(topology.LOG, inbox, sequence, timeout=timeout)
        if stored is None:
            raise TransportError("the log's replica lags behind the fence")
        if stored.sequence >= fence:
            break
        frame = bus_pb2.Frame.FromString(stored.data)
        at, verdict = fold(at, frame)
        if verdict in (Verdict.HOLE, Verdict.LOST):
            whole = False
            break
        if verdict is Verdict.SHOW:
            said.extend(frame.data.chunk)
        sequence = stored.sequence + 1
    return at, said, whole


async def head_is_dropped(bus: Bus, since_unix: float) -> bool:
    """Whether the log may have dropped what was said since some time: it drops what is oldest when it is full.

    Args:
        since_unix: by a worker's clock, which may differ a little from the broker's.

    Raises:
        TransportError: the broker does not answer.
    """
    usage = await bus.used(topology.LOG)
    return usage.bytes > FULL * usage.max_bytes and usage.oldest_unix > since_unix - CLOCKS_SECONDS


async def begins_here(bus: Bus, inbox: str, epoch: int, timeout: float) -> bool:
    """Whether a log has all that an epoch has said of its call, from the first word on.

    Raises:
        TransportError: the log cannot be read.
    """
    stored = await bus.next(topology.LOG, inbox, 1, timeout=timeout)
    if stored is None:
        return False
    frame = bus_pb2.Frame.FromString(stored.data)
    return frame.epoch == epoch and frame.HasField("base") and frame.base == 0
