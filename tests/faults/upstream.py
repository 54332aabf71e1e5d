"""A model server that never says the same thing twice, as a process: `python -m tests.faults.upstream`.

It speaks the streaming half of OpenAI's protocol. The last user message that asks for something (`tokens.Ask`) says what; an
assistant message after it is what there is of the answer already. The name of the model says how it goes on:

    prefix     exactly where the text ends
    restart    with the last sentence again, word for word, and then where the text ends

A question may ask that the first requests fail, with 503 or in the middle of their answers.

It keeps a ledger of each request: which tokens it wrote, and how the connection ended.

    GET    /ledger    all attempts (`ledger.Attempt`) since it started or since they were forgotten
    DELETE /ledger    forgets them

It prints `{"port": …}` when it listens, and ends when its standard input does or its parent is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from typing import Any

import uvloop
from pydantic import TypeAdapter

from tests.upstream.http import BrokenRequest, HttpConnection, Request, read_request, until_alone

from .ledger import Attempt
from .tokens import Ask, Token, last_sentence, read

ATTEMPTS: TypeAdapter[list[Attempt]] = TypeAdapter(list[Attempt])

RESTART = "restart"
PREFIX = "prefix"

HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Ledger:
    """All that was asked and written."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._requests: Counter[str] = Counter()

    def open(self, ask: Ask, given: str) -> Attempt:
        """Begin an attempt."""
        self._requests[ask.call] += 1
        attempt = Attempt(ask.call, self._requests[ask.call], given, len(read(given)[0]), time.monotonic())
        self.attempts.append(attempt)
        return attempt


def question(body: dict[str, Any]) -> tuple[Ask, str]:
    """Find in a request what is asked for, and the text to go on with.

    Raises:
        LookupError: nothing is asked for.
    """
    ask: Ask | None = None
    given: list[str] = []
    for message in body["messages"]:
        if message["role"] == "user" and (found := Ask.find(message["content"])):
            ask, given = found, []
        elif message["role"] == "assistant":
            given.append(message["content"])
    if ask is None:
        raise LookupError("no message asks for anything")
    return ask, "".join(given)


class Connection(HttpConnection):
    """Answers one request after another."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._attempt: Attempt | None = None

    def _gone(self) -> None:
        self._end("closed")
        if self._task is not None:
            self._task.cancel()

    def _end(self, how: Any) -> None:
        if self._attempt is not None:
            self._attempt.ended, self._attempt.ended_at = how, time.monotonic()
            self._attempt = None

    def _next(self) -> None:
        try:
            request = read_request(self._buffer)
        except BrokenRequest as e:
            self._answer(400, str(e).encode())
            return
        if request is not None:
            self._take(request)

    def _take(self, request: Request) -> None:
        match request.method, request.path:
            case "GET", "/ledger":
                self._answer(200, ATTEMPTS.dump_json(self._ledger.attempts))
            case "DELETE", "/ledger":
                self._ledger.attempts.clear()
                self._answer(200, b"{}")
            case "POST", "/v1/chat/completions":
                try:
                    body = request.json()
                    ask, given = question(body)
                except (LookupError, TypeError) as e:
                    self._answer(400, str(e).encode())
                    return
                self._attempt = self._ledger.open(ask, given)
                self._task = asyncio.get_running_loop().create_task(self._tell(self._attempt, ask, body["model"]))
            case _:
                self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._out.write(head.encode() + body)

    async def _tell(self, attempt: Attempt, ask: Ask, model: str) -> None:
        loop = asyncio.get_running_loop()
        breaks = attempt.request <= ask.breaks
        if breaks and not ask.breaks_after:
            await asyncio.sleep(ask.think)
            self._end("broken")
            self._answer(503, b"{}")
            self._task = None
            self._next()
            return
        self._out.write(HEADERS)
        # The first token comes after `think` and the others in their pace, counted from there.
        begins = loop.time() + ask.think
        again = read(last_sentence(attempt.given))[0] if model == RESTART else []
        attempt.first_at = 0.0
        tokens = again + [Token(ask.call, attempt.request, count) for count in range(attempt.first, ask.tokens)]
        for i, token in enumerate(tokens):
            if breaks and i == len(again) + ask.breaks_after:
                self._end("broken")
                self._out.abort()
                return
            wait = begins + (i / ask.per_second if ask.per_second else 0.0) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            await self._writable.wait()
            self._say({"delta": {"content": str(token)}})
            attempt.first_at = attempt.first_at or time.monotonic()
            if i < len(again):
                attempt.repeated += 1
            else:
                attempt.wrote += 1
        if ask.linger:
            await asyncio.sleep(ask.linger)
        self._say({"delta": {}, "finish_reason": "stop"})
        usage = {"prompt_tokens": 1, "completion_tokens": attempt.wrote, "total_tokens": 1 + attempt.wrote}
        self._chunk(json.dumps({"choices": [], "usage": usage}))
        self._chunk("[DONE]")
        self._out.write(b"0\r\n\r\n")
        self._end("complete")
        self._task = None
        self._next()

    def _say(self, choice: dict[str, Any]) -> None:
        self._chunk(json.dumps({"choices": [{"index": 0, **choice}]}, ensure_ascii=False))

    def _chunk(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self._out.write(b"%x\r\n%b\r\n" % (len(event), event))


async def main() -> None:
    """Serve until the standard input ends or the parent is gone."""
    loop = asyncio.get_running_loop()
    ledger = Ledger()
    server = await loop.create_server(lambda: Connection(ledger), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await until_alone()
    os._exit(0)  # the connections break as those of a process that is gone


if __name__ == "__main__":
    uvloop.run(main())
