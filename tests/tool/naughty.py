"""Tools that do what a tool must not, for the tests of the sandbox."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

from pydantic import Field

from services.tool.definition import Parameters, tool
from services.tool.errors import ToolFailed


class Nothing(Parameters):
    """No parameters."""


class Number(Parameters):
    """One number."""

    number: int = Field(description="数", ge=0)


_settings: list[object] = []


@tool(category="test", seconds=0.5)
def double(parameters: Number) -> dict[str, int]:
    """加倍。"""
    return {"double": 2 * parameters.number}


@tool(category="test")
def surroundings(parameters: Nothing) -> dict[str, object]:
    """说出能看到的环境。"""
    return {
        "environment": dict(os.environ),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "settings": list(_settings),
    }


@surroundings.prepare
def _prepare(settings: object) -> None:
    _settings.append(settings)


def _tried(what: str) -> str:
    """What comes of it: the name of the exception, or `done`."""
    try:
        exec(what, {"os": os, "socket": socket, "threading": threading, "signal": signal, "Path": Path})  # noqa: S102
    except Exception as error:
        return type(error).__name__
    return "done"


class Code(Parameters):
    """What to try."""

    code: str = Field(description="Python")


@tool(category="test")
def attempt(parameters: Code) -> dict[str, str]:
    """尝试一件事。"""
    return {"came": _tried(parameters.code)}


@tool(category="test", seconds=0.5)
def endless(parameters: Nothing) -> dict[str, str]:
    """永不结束。"""
    while True:
        pass


@tool(category="test", seconds=60.0)
def sleeper(parameters: Nothing) -> dict[str, str]:
    """睡很久。"""
    time.sleep(60)
    return {}


@tool(category="test", seconds=60.0)
def nap(parameters: Number) -> dict[str, str]:
    """睡几个十分之一秒，也许一个都不睡。"""
    time.sleep(parameters.number / 10)
    return {}


@tool(category="test", seconds=60.0)
def hungry(parameters: Nothing) -> dict[str, int]:
    """要很多内存。"""
    held = [bytearray(16 * 1024 * 1024) for _ in range(1024)]
    return {"held": len(held)}


@tool(category="test")
def suicide(parameters: Nothing) -> dict[str, str]:
    """自尽。"""
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


@tool(category="test")
def broken(parameters: Nothing) -> dict[str, str]:
    """出错。"""
    raise KeyError("a secret of the tool")


@tool(category="test")
def refusing(parameters: Nothing) -> dict[str, str]:
    """说明原因后失败。"""
    raise ToolFailed("There is no such day", "没有这一天")


@tool(category="test")
def refusing_at_length(parameters: Nothing) -> dict[str, str]:
    """失败，说得很长。"""
    raise ToolFailed("n" * 100_000, "不" * 100_000)


@tool(category="test")
def printing(parameters: Nothing) -> dict[str, str]:
    """打印并读取标准输入。"""
    print("not a frame", flush=True)  # noqa: T201
    os.write(1, b"not a frame either")
    return {"read": os.read(0, 10).decode()}


@tool(category="test", max_output_bytes=1000)
def talkative(parameters: Number) -> str:
    """说很多字。"""
    return "字" * parameters.number


@tool(category="test")
def not_a_number(parameters: Nothing) -> dict[str, float]:
    """给出 NaN。"""
    return {"value": float("nan")}


TOOLS = (
    double, surroundings, attempt, endless, sleeper, nap, hungry, suicide, broken, refusing, refusing_at_length, printing,
    talkative, not_a_number,
)  # fmt: skip
