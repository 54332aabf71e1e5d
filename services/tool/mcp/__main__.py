"""`python -m services.tool.mcp`: offer our tools to an MCP client, over standard input and output or (`--http`) on a port."""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys

from qingyu_ai.bus.asking import Asker
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.doors.login import Login
from qingyu_ai.identity.signing import signing
from qingyu_ai.process import run
from qingyu_ai.settings import Settings
from services.tool.registry import Registry

from . import require_mcp

LAST_PORT = 65535


async def main(port: int | None, settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, or the client has left.

    Args:
        port: of this machine; None: standard input and output.
    """
    require_mcp("services.tool.mcp speaks MCP")
    from .listening import serve_pipes, serve_port
    from .outward import OurTools

    bus = await NatsBus.open(settings.nats.servers, "mcp", on_closed=stop.set, login=Login.of("mcp", settings.nats))
    await bus.ensure_topology(settings.bus)
    registry = Registry(bus, settings.bus.tool_lease_seconds)
    await registry.start()
    sign = signing(settings.tool.mcp_signing_key_file, ("tool", "mcp_signing_key_file"))
    tools = OurTools(registry, Asker(bus, sign), settings.tool.mcp_user)
    tools.start()
    try:
        if port is None:
            await serve_pipes(tools.server, stop)
        else:
            await serve_port(tools.server, port, stop)
    finally:
        tools.stop()
        await registry.stop()
        await bus.close()


def _port(written: str) -> int:
    if not written.isascii() or not written.isdecimal() or int(written) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"{written!r} is no port: a number from 0 (any that is free) to {LAST_PORT}")
    return int(written)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.tool.mcp", description="Offers our tools to MCP clients.")
    parser.add_argument(
        "--http",
        type=_port,
        metavar="PORT",
        help="listen at http://127.0.0.1:PORT/mcp instead of standard input and output",
    )
    return parser.parse_args()


if __name__ == "__main__":
    port: int | None = _arguments().http
    # Standard output is the client's.
    run("mcp", functools.partial(main, port), logs=sys.stderr)
