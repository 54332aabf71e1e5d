"""Ctrl-C once: stop in order. Twice: at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP is what a closed terminal sends; the system would otherwise die without having drained."""


class Interrupt:
    """What signals have asked for so far."""

    def __init__(self, on_second: Callable[[], None]) -> None:
        """Prepare it.

        Args:
            on_second: called when somebody is too impatient for an orderly stop.
        """
        self.asked = asyncio.Event()
        self._on_second = on_second

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over from Python, which would raise KeyboardInterrupt anywhere."""
        loop = asyncio.get_running_loop()
        # `nohup` asks for a life beyond the terminal by ignoring SIGHUP, and means it.
        unattended = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        taken = [number for number in SIGNALS if not (unattended and number is signal.SIGHUP)]
        for number in taken:
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self.asked.is_set():
            self._on_second()
        self.asked.set()
