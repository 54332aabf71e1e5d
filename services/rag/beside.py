"""Work that takes long enough to hold up the event loop, done beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_SECONDS = 0.001
"""How long a thread keeps the interpreter when the loop wants it (`sys.setswitchinterval`; Python's own is 5 ms). A search wants
it a dozen times."""


class Beside:
    """A thread, for one piece of work at a time. Several at once would be no faster, because all of it needs the interpreter, and
    the loop would wait for each of them in turn."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it when its turn has come."""
        async with self._turn:
            return await asyncio.to_thread(work, *args, **kwargs)
