"""A tool worker as a process of its own: one tool, which writes a line to a file each time that it runs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from qingyu_ai import routes
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import tool_pb2 as pb
from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings
from qingyu_ai.settings import Worker as WorkerSettings
from services.tool.announcing import Announcer

from .scripted import listing

FILE = "TOOL_PROCESS_FILE"

SLOW = "慢"
"""A text with it takes three seconds."""


def _note(line: str) -> None:
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


async def count(call: Call, request: pb.ToolRequest) -> pb.ToolResponse:
    """Count characters."""
    _note(request.parameters)
    if SLOW in request.parameters:
        await asyncio.sleep(3)
    return pb.ToolResponse(result=json.dumps({"zi": len(json.loads(request.parameters)["text"])}), success=True)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve the tool until `stop` is set."""
    starting: list[asyncio.Task[None]] = []

    def serve(bus: NatsBus, worker: Worker) -> None:
        one = listing("text_statistics", repeatable=False)
        worker.rpc(routes.CALL_TOOL, count, token=one.name)
        announcer = Announcer(bus, worker.token, settings.bus.tool_lease_seconds, [one])
        starting.append(asyncio.get_running_loop().create_task(announcer.start()))

    await worker_process("tool", settings, WorkerSettings(), stop, serve)


if __name__ == "__main__":
    run("tool", main)
