"""Become another program that dies with its supervisor.

    python -I -S tether.py SUPERVISOR_PID PROGRAM [ARGUMENT ...]

Linux sends the signal of PR_SET_PDEATHSIG (prctl(2)) when the parent dies, however it dies. The setting survives exec,
which keeps the process id too. A small program does this, and not a function between fork and exec, because the
supervisor has threads, and after the fork of a process with threads nothing but exec is safe. It imports nothing of
this package: it must be through in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Ask for the death signal, then become the program."""
    supervisor, program = int(argv[1]), argv[2:]
    # SIGKILL, because nobody is left to wait for a drain, and the bus is built for processes that vanish.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor:  # it died before we asked
        sys.exit(1)
    try:
        os.execvp(program[0], program)
    except OSError as e:
        sys.exit(f"cannot start {program[0]}: {e.strerror}")


if __name__ == "__main__":
    main(sys.argv)
