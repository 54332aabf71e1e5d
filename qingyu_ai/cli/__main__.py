"""`python -m qingyu_ai.cli` is the `qingyu-ai` command."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command. Its imports take a moment, and a signal in that moment ends it without a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from .main import app

    app(prog_name="qingyu-ai")


def _end(number: int, frame: FrameType | None) -> None:
    # Nothing was started yet. An exception would be raised in the middle of an import, which may print or swallow it.
    os._exit(0 if sys.argv[1:2] in (["up"], ["cluster"]) else 128 + signal.SIGINT)


if __name__ == "__main__":
    main()
