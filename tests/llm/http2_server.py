"""A model server that speaks HTTP/2, run by hypercorn: `python -m tests.llm.http2_server CERT_AND_KEY [h2,http/1.1]`.

It prints its port as one line, and says in each answer which protocol and which connection it came over. `endless` as the
model's name makes it speak until its caller leaves; `/v1/left` tells how many callers have.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

left = 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request."""
    global left
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    start = {"type": "http.response.start", "status": 200}
    if scope["path"] == "/v1/left":
        await send({**start, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": str(left).encode()})
        return
    await send({**start, "headers": [(b"content-type", b"text/event-stream")]})
    gone = asyncio.create_task(receive())
    said = f"{scope['http_version']} {scope['client'][1]}"
    count = 0
    while not gone.done() and (count < 5 or json.loads(body)["model"] == "endless"):
        await send({"type": "http.response.body", "body": event(said if not count else "雨"), "more_body": True})
        count += 1
        await asyncio.sleep(0.005)
    left += gone.done()
    gone.cancel()
    await send({"type": "http.response.body", "body": event("", "stop") + b"data: [DONE]\n\n"})


def event(text: str, finish: str | None = None) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


async def main() -> None:
    """Serve until the standard input closes."""
    certificate, protocols = sys.argv[1], sys.argv[2]
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # so that who reads the port may connect
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.certfile = config.keyfile = certificate
    config.alpn_protocols = protocols.split(",")
    config.errorlog = None
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, over.set)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    await serve(app, config, shutdown_trigger=over.wait)


if __name__ == "__main__":
    asyncio.run(main())
