"""Ends a process whose event loop does not turn: what hangs holds its calls, and no signal or peer can reach it any more.

A thread counts its own wake-ups between two turns of the loop, and not the time: a process that was frozen as a whole, or a
machine that slept, has not hung.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading

import structlog

log = structlog.get_logger(__name__)

EVERY = 0.5
"""Seconds between two looks."""

EXIT_HUNG = 70
"""EX_SOFTWARE of sysexits.h; a supervisor starts the process again."""


class Watchdog:
    """Watches the event loop that runs now.

    Args:
        seconds: how long it may not turn.
    """

    def __init__(self, seconds: float) -> None:
        self._limit = max(2, round(seconds / EVERY))
        self._turns = 0
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._turn()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _turn(self) -> None:
        self._turns += 1
        self._timer = self._loop.call_later(EVERY / 2, self._turn)

    def _watch(self) -> None:
        seen, missed = -1, 0
        while not self._stopped.wait(EVERY):
            missed = missed + 1 if self._turns == seen else 0
            seen = self._turns
            if missed >= self._limit:
                log.critical("event_loop_hangs", seconds=missed * EVERY)
                faulthandler.dump_traceback(sys.stderr)
                sys.stderr.flush()
                os._exit(EXIT_HUNG)

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        self._timer.cancel()
