"""Where MCP clients reach our tools: this process's own pipes, or a port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import structlog
import uvicorn
from mcp.server.lowlevel import Server
from mcp.shared.message import SessionMessage

from qingyu_ai.process import AddressTaken

from .lines import Heard, hear, say

log = structlog.get_logger(__name__)

LOOPBACK = "127.0.0.1"

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes of what a client may say at once."""

LAST_SECONDS = 2.0
"""For connections that are open when the process is told to stop."""


async def serve_pipes(server: Server[Any], stop: asyncio.Event) -> None:
    """Serve the client at the other end of standard input and output, until it leaves or `stop` is set.

    The package's own way reads in a thread, which no signal ends.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LARGEST_MESSAGE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), sys.stdout
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    heard_in, heard = anyio.create_memory_object_stream[Heard](0)
    to_say, said = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(hear("client", reader, heard_in, stop.set)),
        asyncio.create_task(say(writer, said, heard_in)),
        asyncio.create_task(server.run(heard, to_say, server.create_initialization_options())),
    ]
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in (heard, to_say, heard_in, said):
        stream.close()
    transport.close()


async def serve_port(server: Server[Any], port: int, stop: asyncio.Event) -> None:
    """Serve clients at `http://127.0.0.1:PORT/mcp`, until `stop` is set.

    Args:
        port: 0: any; the log says which.

    Raises:
        AddressTaken: the port cannot be had.
    """
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as e:
        raise AddressTaken(
            f"cannot listen on {LOOPBACK}:{port} ({e.strerror}); choose another one with --http"
        ) from None
    config = uvicorn.Config(
        server.streamable_http_app(host=LOOPBACK, max_request_body_size=LARGEST_MESSAGE),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(LAST_SECONDS),
    )
    http = _Quiet(config)
    log.info("mcp_listens", url=f"http://{LOOPBACK}:{listener.getsockname()[1]}/mcp")
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    http.should_exit = True
    await serving
    listener.close()


class _Quiet(uvicorn.Server):
    """Leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
