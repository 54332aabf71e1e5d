"""`python -m services.chat`: wire a chat worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings
from services.llm.offline import OfflineModel

from .service import ChatService
from .session import Sessions


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a chat worker until `stop` is set."""
    model = OfflineModel(settings.offline.first_delay_seconds, settings.offline.deltas_per_second)

    def serve(bus: NatsBus, worker: Worker) -> None:
        sessions = Sessions(bus, settings.bus, settings.chat)
        service = ChatService({model.name: model}, model.name, sessions, settings.chat.system_prompt)
        worker.job(routes.CHAT, service.chat, service.follow_up)
        worker.stream(routes.CHAT_STREAM, service.chat_stream, service.follow_up)

    await worker_process("chat", settings, settings.chat, stop, serve, metadata={"model": model.name})


if __name__ == "__main__":
    run("chat", main)
