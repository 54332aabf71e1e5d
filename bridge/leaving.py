"""What becomes of a call when its caller goes: by itself, at its deadline, or because this process stops."""

from __future__ import annotations

import asyncio

import structlog

from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.errors import Cancelled, Expired, Fault, SentAway
from qingyu_ai.bus.reading import Reading

from .admission import Admitted

log = structlog.get_logger(__name__)

EARLY = 0.01
"""Seconds before a deadline within which a cancellation is the deadline's: gRPC's clock may be ahead of ours."""


class Leaving:
    """Of all calls of this process.

    Args:
        caller: who reads them.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stopping = False

    def watch(self, reading: Reading, admitted: Admitted) -> Watch:
        """Hold a call's reading while its caller waits for it."""
        return Watch(self, reading, admitted)

    def send_away(self) -> None:
        """Tell everybody whose call is open still to go on elsewhere. From now on whoever leaves is sent away.

        Their jobs go on, and the same request id finds them again.
        """
        self._stopping = True
        sent = self._caller.readers.fail_all(SentAway())
        if sent:
            log.warning("calls_sent_away", calls=sent)

    def withdraw(self, reading: Reading, fault: Fault, linger_seconds: float = 0.0) -> None:
        """A caller is gone: its call is decided so, unless it is we who send the caller away."""
        self._caller.close(reading, None if self._stopping else fault, linger_seconds=linger_seconds)

    def close(self, reading: Reading) -> None:
        """Nobody waits for a call any more, and it is left as it is: it was answered, or its stream broke on our side."""
        self._caller.close(reading)


class Watch:
    """Holds a reading: its deadline while it is read, and what becomes of the call when the caller goes."""

    __slots__ = ("_admitted", "_leaving", "_reading", "_timer")

    def __init__(self, leaving: Leaving, reading: Reading, admitted: Admitted) -> None:
        self._leaving = leaving
        self._reading = reading
        self._admitted = admitted

    def __enter__(self) -> None:
        remaining = max(0.0, self._admitted.envelope.deadline.remaining)
        self._timer = asyncio.get_running_loop().call_later(remaining, self._reading.fail, Expired())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._timer.cancel()
        match error:
            case None:
                self._leaving.close(self._reading)
            case Expired():
                self._leaving.withdraw(self._reading, error)
            case asyncio.CancelledError():
                if self._admitted.envelope.deadline.remaining < EARLY:
                    self._leaving.withdraw(self._reading, Expired())
                else:
                    self._leaving.withdraw(self._reading, Cancelled(), self._admitted.linger_seconds)
            case _:
                # The stream broke on our side; the job goes on, and the same request id finds it again.
                self._leaving.close(self._reading)
