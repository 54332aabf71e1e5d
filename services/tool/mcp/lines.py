"""MCP over a pair of pipes: a message a line, each of bounded length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

log = structlog.get_logger(__name__)

Heard = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Heard], MemoryObjectSendStream[SessionMessage]]
"""What a session reads, and where it writes."""


async def hear(
    peer: str, pipe: asyncio.StreamReader, heard: MemoryObjectSendStream[Heard], on_end: Callable[[], None]
) -> None:
    """Pass on what a peer says, until it ends or says more than the pipe's limit in one line.

    Args:
        peer: for the log.
        on_end: told once, at the end.
    """
    try:
        while line := await pipe.readline():
            try:
                message: Heard = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError:
                log.warning("mcp_line_is_no_message", peer=peer, line=line[:100].decode("utf-8", "replace"))
                continue
            await heard.send(message)
    except ValueError:
        log.error("mcp_message_too_large", peer=peer)
    except (OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
        pass
    finally:
        heard.close()  # who waits for an answer is told
        on_end()


async def say(
    pipe: asyncio.StreamWriter, said: MemoryObjectReceiveStream[SessionMessage], heard: MemoryObjectSendStream[Heard]
) -> None:
    """Write what a session says. A peer that cannot be written to is not heard any more either."""
    try:
        async for message in said:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            pipe.write(text.encode() + b"\n")
            await pipe.drain()
    except (OSError, anyio.ClosedResourceError):
        heard.close()
