"""What the commands that run until Ctrl-C have in common: start, wait for the signal, stop, and the exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from . import logline
from .console import Screen
from .interrupt import Interrupt
from .process import HOPELESS_STATUS
from .supervisor import Supervisor


async def until_stopped(
    supervisor: Supervisor, interrupt: Interrupt, screen: Screen, start: Coroutine[None, None, None]
) -> int:
    """Run the supervisor's processes until a signal comes, or one of them gives up.

    Args:
        start: starts the supervisor and says what a person has to know; cancelled when a signal comes first.

    Returns:
        The exit status: 0 after a clean stop, 1 when a process had to be killed or failed while it stopped, 2 when one
        gave up before it was ever ready, because its settings do not hold.
    """
    running = asyncio.create_task(start)
    await interrupt.asked_or(supervisor.hopeless)
    hopeless = supervisor.gave_up()
    interrupt.asked.set()  # from here on one signal is the second
    screen.say(
        "stopping; Ctrl-C kills everything at once" if hopeless else "stopping; once more kills everything at once"
    )
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    failed = await supervisor.stop()
    if failed:
        screen.say(f"stopped, but not cleanly: {', '.join(p.program.name for p in failed)}", "bold red")
    if hopeless:
        screen.say(logline.printable(hopeless), "bold red")
        return HOPELESS_STATUS
    if failed:
        return 1
    screen.say("stopped")
    return 0
