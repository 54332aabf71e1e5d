"""Ctrl-C once: stop in order. Twice: at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP is what a closed terminal sends; the system would otherwise die without having drained."""


SAME_SECONDS = 0.4
"""A SIGTERM to a process group comes twice, once more through make, and means one. Ctrl-C is not passed on."""


class Interrupt:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        """Prepare it."""
        self.asked = asyncio.Event()
        self.on_second: Callable[[], None] = lambda: None
        """Called when somebody is too impatient for an orderly stop."""
        self._first = 0.0

    async def asked_or(self, *others: asyncio.Event) -> None:
        """Return when a signal has come, or one of these events is set."""
        waiting = [asyncio.create_task(event.wait()) for event in (self.asked, *others)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over from Python, which would raise KeyboardInterrupt anywhere; afterwards they do nothing."""
        loop = asyncio.get_running_loop()
        # `nohup` asks for a life beyond the terminal by ignoring SIGHUP, and means it.
        unattended = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        taken = [number for number in SIGNALS if not (unattended and number is signal.SIGHUP)]
        for number in taken:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)
                # What was started has ended; a signal in the last moments would only add a traceback.
                signal.signal(number, signal.SIG_IGN)

    def _signalled(self, number: signal.Signals) -> None:
        now = asyncio.get_running_loop().time()
        if not self.asked.is_set():
            self._first = now
        elif number is signal.SIGINT or now - self._first > SAME_SECONDS:
            self.on_second()
        self.asked.set()
