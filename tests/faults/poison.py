"""What a request can do to its worker: raise, hang it, kill it. The request says which; a file says whether poison still bites.

请沈17讲30句，每秒40句，先想0秒，最后停0秒。这是毒：hang
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import AsyncGenerator
from typing import Any, Final

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.chat.service import ChatService
from services.llm.model import Delta

from .clients import Client

RAISE, HANG, KILL = "raise", "hang", "kill"

KINDS: Final = (RAISE, HANG, KILL)

BITES_AFTER = 2
"""Deltas of each attempt."""

_MARK = re.compile("这是毒：([a-z]+)")


class PoisonError(Exception):
    """A defect of a handler."""


class Poisoned(Client):
    """A call that is bad for its worker."""

    kind = RAISE

    @property
    def request(self) -> ai.ChatRequest:
        """See `Client.request`."""
        request = super().request
        request.messages[-1].content += f"这是毒：{self.kind}"
        return request


def install(path: str) -> None:
    """Have the chat worker of this process suffer from poison, for as long as there is this file."""
    talk = ChatService._talk

    async def suffer(self: ChatService, call: Call, request: ai.ChatRequest, *rest: Any, **more: Any) -> Any:
        deltas: AsyncGenerator[Delta, None] = talk(self, call, request, *rest, **more)
        poison = _MARK.search(request.messages[-1].content) if request.messages else None
        count = 0
        try:
            async for delta in deltas:
                yield delta
                count += 1
                if poison and count == BITES_AFTER:
                    _bite(poison[1], path)
        finally:
            await deltas.aclose()

    ChatService._talk = suffer  # type: ignore[method-assign]


def _bite(kind: str, path: str) -> None:
    if not os.path.exists(path):
        return
    if kind == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == HANG:
        threading.Event().wait()  # the event loop with it, for ever
    raise PoisonError(kind)
