"""`python -m services.chat`: wire a chat worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings
from services.llm.meters import Meters
from services.llm.offer import open_offer

from .service import ChatService
from .session import Sessions


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a chat worker until `stop` is set."""
    offer = open_offer(settings, Meters())

    def serve(bus: NatsBus, worker: Worker) -> None:
        sessions = Sessions(bus, settings.bus, settings.chat)
        service = ChatService(offer, sessions, settings.chat.system_prompt)
        worker.job(routes.CHAT, service.chat, service.follow_up, notes=ai.ChatStreamChunk)
        worker.stream(routes.CHAT_STREAM, service.chat_stream, service.follow_up, continues=True)

    try:
        await worker_process("chat", settings, settings.chat, stop, serve, metadata={"model": offer.default})
    finally:
        offer.close()


if __name__ == "__main__":
    run("chat", main)
