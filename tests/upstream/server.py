"""The scripted upstream: a process that looks like an OpenAI-compatible endpoint and misbehaves as it is told to.

    python -m tests.upstream.server --port 0 [--cert FILE --key FILE]

It prints `{"port": …, "control": …}` when it listens, and ends when its standard input does or its parent is gone. Scripts
and what was seen are exchanged over both ports; the second one never speaks TLS and is never held up:

    PUT    /_script/MODEL   a list of replies, for the requests that follow
    DELETE /_script         forgets all scripts
    PUT    /_door           what happens to new connections
    GET    /_seen           the requests that were seen
    DELETE /_seen           forgets them
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from tests.upstream import answers
from tests.upstream.connection import RESET, Connection
from tests.upstream.http import Request, until_alone
from tests.upstream.pace import Wheels
from tests.upstream.replies import error
from tests.upstream.script import DOOR, SCRIPT, SEEN, Door, Reply, Seen
from tests.upstream.wire import Ready, dump, fixed, plain, stream

BACKLOG = 1024


@dataclass(slots=True)
class Scripted:
    """A model's replies, and what was made of them."""

    replies: list[Reply]
    next: int = 0
    ready: dict[tuple[int, str, bool], Ready] = field(default_factory=dict)

    def take(self) -> tuple[int, Reply]:
        """The next reply, and its number."""
        number = min(self.next, len(self.replies) - 1)
        self.next += 1
        return number, self.replies[number]


def _json(data: Any, status: int = 200) -> Ready:
    return fixed(Reply(status=status), dump(data), "")


class Upstream:
    """All that the process knows."""

    def __init__(self) -> None:
        self._scripts: dict[str, Scripted] = {}
        self._seen: list[Seen] = []
        self.door = Door()

    def answer(self, request: Request, seen: Seen) -> Ready:
        """Decide what a request gets."""
        if request.path.startswith("/_"):
            return self._control(request)
        self._seen.append(seen)
        body = seen.body if isinstance(seen.body, dict) else {}
        name = str(body.get("model") or request.path)
        scripted = self._scripts.get(name)
        number, reply = scripted.take() if scripted else (0, Reply())
        if reply.body is not None:
            return fixed(reply, reply.body.encode(), name)
        path = request.path
        try:
            if path.endswith("/models") and request.method == "GET":
                return plain(reply, dump(answers.models(sorted({*self._scripts, "echo"}))))
            if request.method == "POST" and not isinstance(seen.body, dict):
                raise answers.BadRequest("the body is not a JSON object")
            if path.endswith("/chat/completions"):
                return self._chat(body, name, scripted, number, reply)
            if path.endswith("/embeddings"):
                return plain(reply, dump(answers.embeddings(body, name)))
            if path == "/rerank":
                return plain(reply, dump(answers.rerank_tei(body)))
            if path.endswith("/rerank"):
                return plain(reply, dump(answers.rerank(body, name)))
        except (answers.BadRequest, AttributeError, KeyError, TypeError) as e:
            return self._error(error(400, str(e), type="invalid_request_error"))
        return self._error(error(404, f"no such path: {request.method} {path}", type="invalid_request_error"))

    @staticmethod
    def _error(reply: Reply) -> Ready:
        assert reply.body is not None
        return fixed(reply, reply.body.encode(), "")

    @staticmethod
    def _chat(body: dict[str, Any], name: str, scripted: Scripted | None, number: int, reply: Reply) -> Ready:
        streamed = body.get("stream") is True
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        if scripted is None:
            reply = answers.echo(body)
        key = (number, "stream" if streamed else "plain", include_usage)
        if scripted and (known := scripted.ready.get(key)):
            return known
        made = stream(reply, name, include_usage) if streamed else plain(reply, dump(answers.completion(reply, name)))
        if scripted:
            scripted.ready[key] = made
        return made

    def _control(self, request: Request) -> Ready:
        what, _, rest = request.path.removeprefix("/_").partition("/")
        try:
            match request.method, what:
                case "PUT", "script":
                    replies = SCRIPT.validate_json(request.data)
                    if not replies:
                        return _json({"error": "a script has at least one reply"}, 400)
                    self._scripts[unquote(rest)] = Scripted(replies)
                case "DELETE", "script":
                    self._scripts.clear()
                case "PUT", "door":
                    self.door = DOOR.validate_json(request.data)
                case "GET", "seen":
                    return fixed(Reply(), SEEN.dump_json(self._seen), "")
                case "DELETE", "seen":
                    self._seen.clear()
                case _:
                    return _json({"error": f"no such control: {request.method} {request.path}"}, 404)
        except ValidationError as e:
            return _json({"error": str(e)}, 400)
        return _json({})


class Listener:
    """Takes up connections on a port of its own."""

    def __init__(self, port: int, make: Callable[[], Connection], tls: ssl.SSLContext | None) -> None:
        self._make = make
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(BACKLOG)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])

    async def serve(self, door: Callable[[], Door]) -> None:
        """Take up connections for ever."""
        loop = asyncio.get_running_loop()
        while True:
            taken, _ = await loop.sock_accept(self._socket)
            task = loop.create_task(self._take_up(taken, door()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take_up(self, taken: socket.socket, door: Door) -> None:
        # Or a small write might wait for the client to acknowledge the one before.
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if door.delay:
            await asyncio.sleep(door.delay)
        if door.reset:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            taken.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, taken, ssl=self._tls)
        except (OSError, ssl.SSLError):
            taken.close()  # the client left, or does not trust the certificate


async def main(port: int, cert: str | None, key: str | None) -> None:
    """Serve until the standard input ends or the parent is gone."""
    loop = asyncio.get_running_loop()
    tls = None
    if cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, key)
    upstream, wheels, numbers = Upstream(), Wheels(), itertools.count(1)
    endpoint = Listener(port, lambda: Connection(next(numbers), upstream.answer, wheels), tls)
    control = Listener(0, lambda: Connection(0, upstream.answer, wheels), None)
    serving = [
        loop.create_task(endpoint.serve(lambda: upstream.door)),
        loop.create_task(control.serve(Door)),
    ]
    sys.stdout.write(json.dumps({"port": endpoint.port, "control": control.port}) + "\n")
    sys.stdout.flush()
    await until_alone(*serving)
    # No task is asked to end in order: the connections are to break as those of a process that is gone.
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.upstream.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.cert, arguments.key))
