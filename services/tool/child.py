"""The process that runs computed tools: one call after another, with as little of the system in reach as can be arranged.

    python -I -S -B -X utf8 child.py PARENT_PID

Standard input brings frames, standard output takes them: each a length and so many bytes. The first frame says what to import.
After the imports the process gives up what it does not need (`_confine`), says READY, and takes calls. Nothing of this project
is imported before the first frame, because only that says where the project is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
import traceback
from typing import Any

READY, RESULT, FAILED, TOO_LARGE, NO_MEMORY, DEFECT = "y", "r", "f", "t", "m", "d"
"""What a frame from the child says, in its first byte.

RESULT: the rest is the result. FAILED: [English, Chinese]. TOO_LARGE: the size. DEFECT: a traceback. NO_MEMORY, READY: nothing.
"""

HEAD = struct.Struct(">I")
"""A frame is its length and so many bytes."""

LONGEST_STORY = 8 * 1024
"""Characters of a traceback; the end of it tells most."""

NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
"""System calls, with the same numbers on every architecture."""
LANDLOCK_ACCESS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
"""By version of the kernel's interface: all ways to use a path that it can refuse."""
LANDLOCK_SIGNALS = 0x2
"""From version 6 on: signals to processes outside."""


def main(parent: int) -> None:
    """Serve calls until the parent closes the pipe."""
    calls, answers = _take_pipes()
    _die_with(parent)
    start = _read(calls)
    if start is None:
        return
    try:
        settings = json.loads(start)
        tools = _load(settings)
        _confine(settings["memory_bytes"], parent)
    except BaseException:
        _write(answers, DEFECT, traceback.format_exc()[-LONGEST_STORY:])
        return
    _write(answers, READY, "")
    while (call := _read(calls)) is not None:
        _write(answers, *_answer(tools, call))


def _take_pipes() -> tuple[int, int]:
    """Move the pipes away from standard input and output, so that a tool's `print` and `input` cannot touch them.

    Every other descriptor is closed, whoever left it open.
    """
    calls, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    last = max(calls, answers)
    for fd in range(3, last):
        if fd not in (calls, answers):
            with contextlib.suppress(OSError):
                os.close(fd)
    os.closerange(last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return calls, answers


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _load(start: dict[str, Any]) -> dict[str, Any]:
    """Import the tools, by name, and give them their settings."""
    sys.path[:] = start["path"]
    tools = {}
    for name, module in start["tools"].items():
        tools[name] = getattr(importlib.import_module(module), name)
        if name in start["settings"]:
            tools[name].set_up(start["settings"][name])
        # Builds what is lazy, and so imports it: later there are no files to import from.
        with contextlib.suppress(Exception):
            tools[name].read('{"no such parameter": 0}')
    importlib.import_module("services.tool.errors")
    return tools


def _confine(memory_bytes: int, parent: int) -> None:
    """Give up everything that a tool does not need. docs/tools.md says what that keeps out and what it does not.

    Args:
        memory_bytes: that may be mapped besides what is mapped now.
    """
    with open("/proc/self/statm") as pages:
        mapped = int(pages.read().split()[0]) * resource.getpagesize()
    os.environ.clear()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _refuse_paths()
    if os.geteuid() == 0:
        os.chroot(".")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        _die_with(parent)  # a change of user clears it
    for limit, most in (
        (resource.RLIMIT_AS, mapped + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),  # what is open stays open; nothing else can be opened, no file and no socket
    ):
        resource.setrlimit(limit, (most, most))


def _refuse_paths() -> None:
    """Have the kernel refuse every use of a path, and signals to other processes, where it has Landlock."""
    system = ctypes.CDLL(None, use_errno=True).syscall
    version = system(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    access = max(bits for since, bits in LANDLOCK_ACCESS.items() if since <= version)
    wanted = struct.pack("QQQ", access, 0, LANDLOCK_SIGNALS if version >= 6 else 0)
    rules = system(LANDLOCK_CREATE_RULESET, wanted, ctypes.c_size_t(len(wanted) if version >= 6 else 8), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    if system(LANDLOCK_RESTRICT_SELF, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


def _answer(tools: dict[str, Any], call: bytes) -> tuple[str, str]:
    """Run one call."""
    errors = sys.modules["services.tool.errors"]
    asked = json.loads(call)
    tool = tools[asked["tool"]]
    # Wall time is the parent's to watch; this ends a loop whose parent is too busy to look.
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + tool.seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    try:
        return RESULT, tool.encode(tool.function(tool.read(asked["parameters"])))
    except errors.OutputTooLarge as error:
        return TOO_LARGE, str(error.size)
    except errors.ToolFailed as error:
        return FAILED, json.dumps([error.english, error.chinese])
    except MemoryError:
        return NO_MEMORY, ""
    except BaseException:
        return DEFECT, traceback.format_exc()[-LONGEST_STORY:]


def _read(fd: int) -> bytes | None:
    """Read a frame; None: the parent has closed the pipe."""
    head = _read_exactly(fd, HEAD.size)
    return None if head is None else _read_exactly(fd, HEAD.unpack(head)[0])


def _read_exactly(fd: int, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        some = os.read(fd, size - len(found))
        if not some:
            return None
        found += some
    return bytes(found)


def _write(fd: int, kind: str, text: str) -> None:
    body = kind.encode() + text.encode("utf-8", "replace")
    frame = memoryview(HEAD.pack(len(body)) + body)
    while frame:
        frame = frame[os.write(fd, frame) :]


if __name__ == "__main__":
    main(int(sys.argv[1]))
