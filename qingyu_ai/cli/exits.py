"""How a command ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import typer

from qingyu_ai.settings import SettingsError

from .console import complain
from .nats_server import NotInstalled
from .preflight import Refused

USAGE_STATUS = 2
"""Nothing was started, and starting it again as it is will not help."""


def exit_with(command: Callable[[], Coroutine[None, None, int]]) -> None:
    """Run a command and exit with its status."""
    try:
        status = asyncio.run(command())
    except (SettingsError, Refused, NotInstalled) as e:
        complain(str(e).splitlines())
        status = USAGE_STATUS
    raise typer.Exit(status)
