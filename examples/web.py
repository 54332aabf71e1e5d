"""What a browser or another backend sees of the AI Proxy: server-sent events that outlive their connection, and a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from calling import USER, Broken, heading
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

CHAT = "/api/v1/ai/chat/stream"
SOCKET = "/api/v1/ai/ws"

CALL_SECONDS = 60

CUT_AFTER = 30
"""Characters after which the first reader's connection is cut."""

MOST_TOKENS = 120

HEADERS = {"X-User-Id": USER}
"""Who asks. With `proxy.authentication` required it is a bearer token, or a ticket, that says so."""


@dataclass
class Event:
    """One event of a stream (WHATWG HTML, 9.2.6)."""

    name: str = ""
    id: str = ""
    data: str = ""


def tour(base: str) -> None:
    """Stream both ways.

    Raises:
        Broken: one of them broke a promise.
    """
    try:
        events(base)
        socket(base)
    except (OSError, HTTPException, WebSocketException) as e:
        raise Broken(f"连接中断 · the connection to {base} broke: {e}") from None


def events(base: str) -> None:
    """Read a stream, lose the connection in the middle, and read on: what an EventSource does by itself."""
    heading("九、浏览器的流", f"server-sent events, POST {CHAT}")
    question = "请用两三句话，写一盏灯在雨里快要灭的样子。"
    print(f"问 · asks: {question}\n\n答 · answers: ", end="", flush=True)
    body = json.dumps({"messages": [{"role": "user", "content": question}], "maxTokens": MOST_TOKENS})
    with closing(dial(base)) as first:
        first.request("POST", CHAT, body.encode(), {**HEADERS, "Content-Type": "application/json"})
        answer = first.getresponse()
        where, before, last = answer.headers.get("Location", ""), "", Event()
        for last in checked(answer):
            before += shown(last)
            if len(before) >= CUT_AFTER:
                break
    after = ""
    if last.name != "done":
        print("⟦断线，续读 · cut off, and read on⟧", end="", flush=True)
        after = "".join(map(shown, followed(base, where, last.id)))
    print("\n")
    whole = "".join(text_of(event) for event in followed(base, where))
    if before + after != whole:
        raise Broken("续读有缺漏或重复 · what was read on has a gap or a repeat")
    print(f"  {len(before)} + {len(after)} 字 · characters, {where}")


def followed(base: str, where: str, last_id: str = "") -> Iterator[Event]:
    """Read a stream on, from the event of that id; empty: from its beginning."""
    with closing(dial(base)) as connection:
        connection.request("GET", where, headers={**HEADERS, "Last-Event-ID": last_id} if last_id else HEADERS)
        yield from checked(connection.getresponse())


def checked(answer: HTTPResponse) -> Iterator[Event]:
    """The events of a stream, which must end with `done` after a final chunk."""
    if answer.status != 200:
        error = json.loads(answer.read())["error"]
        raise Broken(f"{error['message']} · {error['messageEn']} ({answer.status})")
    event, final = Event(), False
    for line in answer:
        name, _, value = line.decode().rstrip("\r\n").partition(": ")
        match name:
            case "event":
                event.name = value
            case "id":
                event.id = value
            case "data":
                event.data = value
            case "" if event.name:
                if event.name == "error":
                    error = json.loads(event.data)["error"]
                    raise Broken(
                        f"流以错误结束 · the stream ended with an error: {error['message']} · {error['messageEn']}"
                    )
                if event.name == "done" and not final:
                    break
                final = final or (event.name == "message" and json.loads(event.data)["is_final"])
                yield event
                if event.name == "done":
                    return
                event = Event()
    raise Broken("流没有正常结束 · the stream did not end with a final chunk and done")


def text_of(event: Event) -> str:
    """The text of an event."""
    return str(json.loads(event.data)["delta"]) if event.name == "message" else ""


def shown(event: Event) -> str:
    """Print the text of an event, and return it."""
    text = text_of(event)
    print(text, end="", flush=True)
    return text


def socket(base: str) -> None:
    """Ask over a WebSocket: the first message names the request, the answers are its steps."""
    heading("十、WebSocket", SOCKET)
    question = "再用一句话，写灯灭之后。"
    print(f"问 · asks: {question}\n\n答 · answers: ", end="", flush=True)
    address = base.replace("http", "ws", 1) + SOCKET
    with connect(address, additional_headers=HEADERS, open_timeout=CALL_SECONDS, proxy=None) as connection:
        request = {"messages": [{"role": "user", "content": question}], "maxTokens": MOST_TOKENS}
        connection.send(json.dumps({"type": "chat", "request": request}))
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["type"] not in ("done", "error"):
            heard.append(json.loads(connection.recv(timeout=CALL_SECONDS)))
            print(heard[-1].get("delta", ""), end="", flush=True)
    print("\n")
    accepted, *chunks, end = heard
    if end["type"] == "error":
        error = end["error"]
        raise Broken(f"流以错误结束 · the stream ended with an error: {error['message']} · {error['messageEn']}")
    if not chunks or [chunk["is_final"] for chunk in chunks] != [False] * (len(chunks) - 1) + [True]:
        raise Broken("流没有终块 · the stream ended without a final chunk")
    if not "".join(chunk["delta"] for chunk in chunks).strip():
        raise Broken("回答为空 · the answer is empty")
    print(f"  {len(chunks)} 块 · chunks, {accepted['requestId']}")


def dial(base: str) -> HTTPConnection:
    """Connect."""
    parts = urlsplit(base)
    return HTTPConnection(parts.hostname or "", parts.port or 80, timeout=CALL_SECONDS)
