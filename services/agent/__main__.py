"""`python -m services.agent`: wire an agent worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.identity.signing import signing
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings
from services.llm.meters import Meters
from services.llm.offer import open_offer
from services.tool.registry import Registry

from .library import open_library
from .service import AgentService
from .toolbox import BusToolbox


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run an agent worker until `stop` is set."""
    library = open_library(settings.agent.agents_dir)
    sign = signing(settings.agent.signing_key_file, ("agent", "signing_key_file"))
    offer = open_offer(settings, Meters())

    def serve(bus: NatsBus, worker: Worker) -> None:
        toolbox = BusToolbox(Registry(bus, settings.bus.tool_lease_seconds), Asker(bus, sign))
        service = AgentService(offer, library, toolbox)
        worker.job(routes.EXECUTE_AGENT, service.execute, notes=ai.AgentStreamChunk)
        worker.stream(routes.EXECUTE_AGENT_STREAM, service.execute_stream, continues=True)

    try:
        await worker_process("agent", settings, settings.agent, stop, serve, metadata={"model": offer.default})
    finally:
        offer.close()


if __name__ == "__main__":
    run("agent", main)
