"""`python -m services.tool`: wire a tool worker, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio

from qingyu_ai.process import run, worker_process
from qingyu_ai.settings import Settings, SettingsError

from .loading import VARIABLE, load, settings_of
from .process import serve
from .registry import OtherSchema
from .sandbox import Sandbox


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a tool worker until `stop` is set."""
    own = settings.tool
    tools = load(own.modules)
    given = {name: value for name, value in settings_of(own).items() if any(tool.name == name for tool in tools)}
    async with Sandbox(tools, children=own.children, memory_bytes=own.child_memory_bytes, settings=given) as sandbox:
        await sandbox.start()  # a tool that cannot be imported there is told now, not at its first call
        try:
            await worker_process(
                "tool",
                settings,
                own,
                stop,
                lambda bus, worker: serve(bus, worker, tools, sandbox, settings.bus.tool_lease_seconds),
            )
        except OtherSchema as e:
            raise SettingsError(f"{VARIABLE}: {e}") from None


if __name__ == "__main__":
    run("tool", main)
